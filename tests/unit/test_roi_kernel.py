"""The compiled RoIAlign: against torchvision's and the uncompiled one, its laws, and odd input."""

import os

import pytest
import torch
from torchvision.ops import roi_align

from groundup.ops.pooling import RoIMaps, build_roi_maps, pool_from_table, pool_levels
from groundup.ops.roi_kernel import (
    align_rois,
    build_table,
    kernel,
    kernel_line,
    pitch_of,
    read_table,
    spread_rois,
)

STRIDES = (4, 8, 16, 32)
INF, NAN = float("inf"), float("nan")

pytestmark = pytest.mark.skipif(kernel(torch.float32).library is None, reason="no C compiler here")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def some_maps(channels=20, seed=0, dtype=torch.float32, levels=4, height=160, width=192):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2, channels, height // stride, width // stride) for stride in STRIDES[:levels]]
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


def some_boxes(count=40, seed=1, dtype=torch.float32, levels=4):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(count, 2, generator=generator, dtype=dtype) * 150
    sides = 1 + torch.rand(count, 2, generator=generator, dtype=dtype) ** 2 * 150
    images = torch.randint(0, 2, (count,), generator=generator)
    return (
        torch.cat([starts, starts + sides], dim=1),
        images,
        torch.randint(0, levels, (count,), generator=generator),
    )


def arguments(maps, size=3, sampling_ratio=2, is_aligned=True):
    heights, widths = [level.shape[2] for level in maps], [level.shape[3] for level in maps]
    strides = [float(stride) for stride in STRIDES[: len(maps)]]
    return heights, widths, strides, len(maps[0]), maps[0].shape[1], size, sampling_ratio, is_aligned


def pooled_by_torchvision(maps, boxes, images, levels, size, sampling_ratio, is_aligned):
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    rows = [
        roi_align(maps[level], rois[row : row + 1], size, 1 / STRIDES[level], sampling_ratio, is_aligned)
        for row, level in enumerate(levels.tolist())
    ]
    return torch.cat(rows)


def uncompiled(maps):
    return RoIMaps(tuple(maps), STRIDES, torch.cat([one.permute(0, 2, 3, 1).flatten(0, 2) for one in maps]))


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3, 4])
def test_values_and_gradients_are_torchvisions(sampling_ratio, is_aligned):
    boxes, images, levels = some_boxes(dtype=torch.float64)
    ours, theirs = ([one.requires_grad_() for one in some_maps(dtype=torch.float64)] for _ in range(2))
    rois = align_rois(
        build_table(ours), boxes, images, levels,
        *arguments(ours, size=7, sampling_ratio=sampling_ratio, is_aligned=is_aligned),
    )  # fmt: skip
    expected = pooled_by_torchvision(theirs, boxes, images, levels, 7, sampling_ratio, is_aligned)
    torch.testing.assert_close(rois, expected, rtol=0, atol=1e-10)
    outer = torch.randn(rois.shape, dtype=torch.float64)
    (rois * outer).sum().backward()
    (expected * outer).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, 16, 48, 64, 72, 256])
@pytest.mark.parametrize("size", [1, 7, 14])
def test_float32_is_torchvisions_and_the_uncompiled_ones_to_1e_5(channels, size):
    # Smooth maps: torch and the kernel round a box's place to a few parts in a million, each in its own way.
    boxes, images, levels = some_boxes(count=12)
    maps = [torch.nn.functional.avg_pool2d(one, 3, 1, 1) for one in some_maps(channels)]
    pooled = pool_levels(
        build_roi_maps(maps, STRIDES), boxes, images, levels, size=size, sampling_ratio=2, is_aligned=False
    )
    expected = pooled_by_torchvision(maps, boxes, images, levels, size, 2, False)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    bags = pool_from_table(
        uncompiled(maps), boxes, images, levels, size=size, sampling_ratio=2, is_aligned=False
    )
    torch.testing.assert_close(pooled, bags, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_odd_boxes_stay_inside_the_table(sampling_ratio, is_aligned):
    boxes = torch.tensor(
        [[10, 10, 10, 10], [50, 50, 20, 20], [-90, -90, -50, -40], [500, 500, 600, 600],
         [-1e9, -1e9, 1e9, 1e9], [-3e38, 0, 3e38, 9], [0, 0, 1e38, 1e38], [0, 0, 192, 160],
         [-4, -4, 0, 0], [192, 160, 196, 164],
         [0, 0, 1e-30, 1e-30], [3, 3, 3.5, 150]]
    )  # fmt: skip
    images, levels = torch.arange(len(boxes)) % 2, torch.arange(len(boxes)) % 4
    maps = [one.requires_grad_() for one in some_maps(8)]
    rois = align_rois(
        build_table(maps), boxes, images, levels, *arguments(maps, 7, sampling_ratio, is_aligned)
    )
    rois.nan_to_num().sum().backward()
    assert all(level.grad.isfinite().all() for level in maps)
    assert rois[5].isnan().all(), "its width is no number of float32"
    assert not rois[[2, 3]].any(), "they lie outside"
    if sampling_ratio:  # adaptive, torchvision counts through all samples of a box of 1e9
        bags = pool_from_table(
            uncompiled(maps),
            boxes,
            images,
            levels,
            size=7,
            sampling_ratio=sampling_ratio,
            is_aligned=is_aligned,
        )
        torch.testing.assert_close(rois, bags, rtol=1e-5, atol=1e-5, equal_nan=True)
    sane = [0, 1, 2, 3, 7, 8, 9, 10, 11]
    expected = pooled_by_torchvision(
        maps, boxes[sane], images[sane], levels[sane], 7, sampling_ratio, is_aligned
    )
    torch.testing.assert_close(rois[sane], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_box_that_is_not_finite_gives_nan_and_no_gradient(value):
    maps = [one.requires_grad_() for one in some_maps(8)]
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [0.0, value, 40.0, 40.0]])
    images, levels = torch.tensor([0, 1]), torch.tensor([0, -(2**62)])
    options = {"size": 7, "sampling_ratio": 2, "is_aligned": False}
    for pyramid in (build_roi_maps(maps, STRIDES), uncompiled(maps)):
        rois = pool_levels(pyramid, boxes, images, levels, **options)
        assert rois[0].isfinite().all()
        assert rois[1].isnan().all()
    pool_levels(build_roi_maps(maps, STRIDES), boxes, images, levels, **options).sum().backward()
    assert maps[0].grad[0].any()
    assert all(level.grad.isfinite().all() and not level.grad[1].any() for level in maps)


@pytest.mark.parametrize(("image", "level"), [(2, 0), (-1, 0), (0, 4), (0, -1)])
def test_a_map_that_is_not_there_is_refused(image, level):
    maps = some_maps(8)
    with pytest.raises(IndexError, match="an image or a level that the table does not have"):
        align_rois(
            build_table(maps), torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
            torch.tensor([image]), torch.tensor([level]), *arguments(maps),
        )  # fmt: skip


def test_no_boxes_give_nothing_and_a_gradient_of_zeros():
    maps = [one.requires_grad_() for one in some_maps(8)]
    nothing = torch.zeros(0, dtype=torch.int64)
    rois = align_rois(build_table(maps), torch.zeros(0, 4), nothing, nothing, *arguments(maps))
    assert rois.shape == (0, 8, 3, 3)
    rois.sum().backward()
    assert all(not level.grad.any() for level in maps)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_maps_of_one_place_give_their_one_value(sampling_ratio):
    maps = some_maps(5, levels=1, height=4, width=4)
    boxes, images = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 2.0, 3.0]]), torch.tensor([0, 1])
    rois = align_rois(build_table(maps), boxes, images, images * 0, *arguments(maps, 2, sampling_ratio))
    torch.testing.assert_close(rois, maps[0].expand(2, 5, 2, 2))


@pytest.mark.parametrize("channels", [1, 16, 21, 64])
def test_a_table_holds_the_maps_and_zeros(channels):
    maps = some_maps(channels)
    table = build_table(maps)
    assert table.shape[1] == pitch_of(channels, torch.float32)
    rows = torch.cat([one.permute(0, 2, 3, 1).flatten(0, 2) for one in maps])
    assert table[:, :channels].equal(rows)
    assert not table[:, channels:].any()
    heights, widths, _, num_images, *_ = arguments(maps)
    for one, other in zip(read_table(table, heights, widths, num_images, channels), maps, strict=True):
        assert one.equal(other)


def test_the_layout_of_the_input_does_not_matter():
    maps, (boxes, images, levels) = some_maps(24), some_boxes()
    expected = align_rois(build_table(maps), boxes, images, levels, *arguments(maps))
    strange = [one.to(memory_format=torch.channels_last) for one in maps]
    doubled = torch.stack([boxes, boxes], dim=1)[:, 0]
    table = torch.cat([torch.zeros(1, 32), build_table(strange)])[1:]
    found = align_rois(table, doubled, images.int(), levels.int(), *arguments(maps))
    assert found.equal(expected)
    outer = torch.randn(found.shape)
    turned = outer.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    ours = [spread_rois(one, boxes, images, levels, *arguments(maps)) for one in (outer, turned)]
    assert ours[0].equal(ours[1])


def test_results_are_equal_to_the_bit_whatever_the_threads(threads):
    found = []
    for count in (1, 2, 4, 4, 3, 1):
        threads(count)
        for channels in (256, 24):
            maps = [one.requires_grad_() for one in some_maps(channels)]
            boxes, images, levels = some_boxes(200)
            rois = align_rois(build_table(maps), boxes, images, levels, *arguments(maps, 7))
            (rois * rois).sum().backward()
            found.append([rois, *(level.grad for level in maps)])
    for k, one in enumerate(found):
        assert all(a.equal(b) for a, b in zip(one, found[k % 2], strict=True))


def test_the_gradient_is_that_of_the_values():
    maps = [one.requires_grad_() for one in some_maps(2, dtype=torch.float64, levels=2, height=16, width=24)]
    boxes, images, levels = some_boxes(4, dtype=torch.float64, levels=2)

    def pooled(*maps):
        return align_rois(build_table(list(maps)), boxes / 8, images, levels, *arguments(maps, 2))

    assert torch.autograd.gradcheck(pooled, maps)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # by torch's own check, of lists
def test_the_operators_keep_torchs_contract():
    maps = [one.requires_grad_() for one in some_maps(5, levels=2)]
    boxes, images, levels = some_boxes(6, levels=2)
    table = build_table(maps).detach().requires_grad_()
    torch.library.opcheck(build_table, (maps,))
    torch.library.opcheck(align_rois, (table, boxes, images, levels, *arguments(maps)))
    heights, widths, _, num_images, channels, *_ = arguments(maps)
    torch.library.opcheck(read_table, (table.detach(), heights, widths, num_images, channels))
    torch.library.opcheck(spread_rois, (torch.randn(6, 5, 3, 3), boxes, images, levels, *arguments(maps)))


def test_a_compiled_graph_holds_the_operators_whole():
    boxes, images, levels = some_boxes()

    def pooled(*maps):
        return align_rois(build_table(maps), boxes, images, levels, *arguments(maps))

    ours, theirs = ([one.requires_grad_() for one in some_maps(8)] for _ in range(2))
    found = torch.compile(pooled, fullgraph=True, backend="aot_eager")(*ours)
    expected = pooled(*theirs)
    assert found.equal(expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert all(one.grad.equal(other.grad) for one, other in zip(ours, theirs, strict=True))


def test_mixed_precision_pools_in_float32():
    boxes, images, levels = some_boxes()
    maps = [one.bfloat16() for one in some_maps(8)]
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_levels(
            build_roi_maps(maps, STRIDES), boxes, images, levels, size=7, sampling_ratio=2, is_aligned=False
        )
    assert found.dtype == torch.float32


def test_a_forked_process_pools_as_its_parent(threads):
    # As a loader's worker does: one thread there, whatever the parent has.
    threads(2)
    maps, (boxes, images, levels) = some_maps(8), some_boxes()
    expected = align_rois(build_table(maps), boxes, images, levels, *arguments(maps))
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        found = align_rois(build_table(maps), boxes, images, levels, *arguments(maps))
        os._exit(0 if found.equal(expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def asked_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    kernel.cache_clear()
    yield monkeypatch
    kernel.cache_clear()


def test_the_switch_leaves_the_work_to_torch_without_a_word(asked_anew, caplog):
    asked_anew.setenv("GROUNDUP_KERNELS", "off")
    assert not build_roi_maps(some_maps(), STRIDES).is_compiled
    assert kernel_line().startswith("RoIAlign: torch's embedding_bag")
    assert caplog.records == []


def test_without_a_compiler_the_log_says_so_once_and_torch_serves(asked_anew, caplog):
    asked_anew.setenv("CC", "no-such-compiler")
    for _ in range(3):
        assert not build_roi_maps(some_maps(), STRIDES).is_compiled
    assert caplog.messages == [
        "RoIAlign: torch's embedding_bag, several times slower; not compiled: there is no C compiler "
        "(no-such-compiler)"
    ]
