"""What is found in a photograph does not hang on those that pass through the model with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from annotated import draw_index
from detector_worlds import NUM_CLASSES, tiny_detector, tiny_options
from groundup.config import override
from groundup.data.coco import Category
from groundup.data.decoding import decode_ahead, windows_of
from groundup.data.images import ImagePolicy
from groundup.data.loader import LoaderOptions, evaluation_batches
from groundup.data.order import batches_of_alike
from groundup.data.transforms import TransformOptions
from groundup.detector import Detector
from groundup.errors import DataError
from groundup.tiny_recipes import tiny_recipe

SIZES = ((96, 128), (128, 96), (96, 128), (64, 160), (93, 121), (128, 96), (64, 100), (96, 126), (100, 64))
"""Of photographs; the first, third, fifth and eighth are padded alike."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        blocks = generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
        picture = np.kron(blocks, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(SIZES))]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    recipe = override(
        tiny_recipe("small", tiny_options()), ["transforms.test_short_side=96", "evaluation.batch_size=2"]
    )
    categories = tuple(Category(id=label + 1, name=f"kind {label}") for label in range(NUM_CLASSES))
    model = tiny_detector().eval()
    return Detector(model=model, recipe=recipe, categories=categories, folder=tmp_path_factory.mktemp("run"))


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert (one.image_id, one.size) == (other.image_id, other.size)
        assert len(one.boxes) > 0
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.masks, other.masks, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("tta", "sizes"), [("null", (3, 9)), ("{scales: [64], flip: false}", (3,))])
def test_batch_mates_change_nothing_but_rounding(detector, paths, tta, sizes):
    detector = replace(detector, recipe=override(detector.recipe, [f"evaluation.tta={tta}"]))
    alone = list(detector.predict(paths, batch_size=1))
    assert [found.image_id for found in alone] == list(range(len(paths)))
    for size in sizes:
        assert_same(list(detector.predict(paths, batch_size=size)), alone)


def test_a_broken_photograph_stands_in_its_place_and_the_others_are_seen(detector, paths, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:200])
    asked = [*paths[:2], broken, *paths[2:4]]
    seen = list(detector.look_at(asked))
    assert [photograph.path for photograph, _ in seen] == asked
    assert [found is None for _, found in seen] == [False, False, True, False, False]
    assert "damaged" in str(seen[2][0].fault)
    predicted = detector.predict(asked)
    assert [next(predicted).image_id for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"broken\.png"):
        next(predicted)


def test_photographs_come_in_order_and_are_decoded_no_farther_ahead_than_asked(paths):
    asked = []

    def paths_asked():
        for path in paths:
            asked.append(path)
            yield path

    decoded = decode_ahead(paths_asked(), ImagePolicy(), num_ahead=2)
    assert next(decoded).image.shape[:2] == SIZES[0]
    assert len(asked) == 3
    decoded.close()
    whole = decode_ahead(paths, ImagePolicy(), num_ahead=20)
    assert [(one.number, one.image.shape[:2]) for one in whole] == list(enumerate(SIZES))


def test_a_window_holds_as_many_photographs_as_memory_allows(paths, monkeypatch):
    def windows(most):
        decoded = decode_ahead(paths, ImagePolicy(), num_ahead=1)
        return [[one.number for one in window] for window in windows_of(decoded, most)]

    assert windows(4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    monkeypatch.setattr("groundup.data.decoding.MAX_HELD_PIXELS", 2 * 96 * 128)
    assert windows(4) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    monkeypatch.setattr("groundup.data.decoding.MAX_HELD_PIXELS", 1)
    assert windows(4) == [[number] for number in range(len(paths))]


def test_rows_of_a_kind_keep_their_order_and_share_batches():
    assert batches_of_alike("abacaab", 2) == [(0, 2), (4, 5), (1, 6), (3,)]
    assert batches_of_alike([None] * 5, 2) == [(0, 1), (2, 3), (4,)]
    assert batches_of_alike([], 2) == []


def test_evaluation_pads_every_image_as_if_it_were_alone(tmp_path):
    index, transforms = draw_index(tmp_path), TransformOptions(test_short_side=40)

    def padded(batch_size, **options):
        batches = evaluation_batches(
            index, transforms, LoaderOptions(num_workers=0), batch_size=batch_size, alike=True, **options
        )
        return {int(i): tuple(batch.images.shape[2:]) for batch in batches for i in batch.image_ids}

    alone = padded(1)
    assert padded(4) == alone
    assert padded(4, rank=0, world_size=2) | padded(4, rank=1, world_size=2) == alone
