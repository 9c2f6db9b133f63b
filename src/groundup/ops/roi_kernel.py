"""RoIAlign in C, as torch operators: `roi_align.c` compiled when it is first needed.

Two operators with gradients: `build_table` lays the maps of all levels out as rows of one table, once for all
heads; `align_rois` cuts RoIs out of it. Results are the same to the bit whatever the number of threads.

Threads are those of torch's own OpenMP runtime, as many as torch uses: a second pool would contend with its.
With one thread, as in a loader's worker, the pool is not touched; beyond that a forked process may do what it
may with torch: start the first threads itself.

Legend:
    B  images     C  channels     P  C filled up to whole vectors     N  boxes
    R  rows of the table: places of all images on all levels          S  RoIAlign's resolution
"""

import ctypes
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.ops.compilation import SWITCH, Compiled, load_compiled

SOURCE = Path(__file__).with_name("roi_align.c")
VECTOR_BYTES = 64
"""A row of the table is a multiple of it; the C file's constant of that name."""
NO_MEMORY, NO_SUCH_MAP = 1, 2
"""What the C functions return instead of 0."""
FLAGS: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.float64: ("-DDOUBLE",)}
"""What makes the source one for this type."""

Size = Any
"""An int, or a `torch.SymInt`: while torch traces a graph it may know a size only by name."""
Geometry = tuple[Sequence[Size], Sequence[Size], Sequence[float], Size, Size]
"""Heights and widths of the maps in places, pixels a place, B and C."""


class Task(ctypes.Structure):
    """`Task` of the C file."""

    _fields_ = (
        ("num_levels", ctypes.c_int64),
        ("num_images", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("heights", ctypes.POINTER(ctypes.c_int64)),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_double)),
        ("size", ctypes.c_int64),
        ("sampling_ratio", ctypes.c_int64),
        ("is_aligned", ctypes.c_int64),
        ("num_boxes", ctypes.c_int64),
        ("boxes", ctypes.c_void_p),
        ("images", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
    )


@functools.cache
def kernel(dtype: torch.dtype) -> Compiled:
    """The kernel for this type; that there is none, though it was wanted, is said once."""
    found = load_compiled(SOURCE, FLAGS[dtype])
    if found.library is None:
        if found.reason != f"{SWITCH}=off":
            logging.getLogger(__name__).warning(kernel_line(found))
        return found
    found.library.compiler.restype = ctypes.c_char_p
    return found


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_kernel(dtype: torch.dtype = torch.float32) -> bool:
    """Whether there is one; asked while torch traces a graph, the answer becomes part of it."""
    return kernel(dtype).library is not None


def kernel_line(found: Compiled | None = None) -> str:
    """What serves RoIAlign on the CPU in this process, in one line; digits differ between the two."""
    found = kernel(torch.float32) if found is None else found
    if found.library is None:
        return f"RoIAlign: torch's embedding_bag, several times slower; not compiled: {found.reason}"
    return f"RoIAlign: compiled by {found.library.compiler().decode()} ({SWITCH}=off switches that off)"


@functools.cache
def openmp_run() -> ctypes.c_void_p:
    """`GOMP_parallel` of the OpenMP runtime in this process; null, which means one thread, if it has none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:
        return ctypes.c_void_p(None)


def call(name: str, dtype: torch.dtype, task: Task, *pointers: Any) -> None:
    """Have a function of the kernel done by as many threads as torch uses.

    Raises:
        IndexError: a finite box names an image or a level that there is none of.
        MemoryError: the system gives none.
    """
    library = kernel(dtype).library
    assert library is not None, "who has no kernel takes another way"
    threads = ctypes.c_int64(torch.get_num_threads())
    status = getattr(library, name)(ctypes.byref(task), *pointers, openmp_run(), threads)
    if status == NO_SUCH_MAP:
        raise IndexError("a box belongs to an image or a level that the table does not have")
    if status == NO_MEMORY:
        raise MemoryError("RoIAlign: no memory for the threads' scratch")


def pitch_of(channels: Size, dtype: torch.dtype) -> Size:
    """P: numbers in a row of the table."""
    lanes = VECTOR_BYTES // dtype.itemsize
    return -(-channels // lanes) * lanes


def build_task(geometry: Geometry, dtype: torch.dtype) -> Task:
    """The task without RoIs."""
    heights, widths, strides, num_images, channels = geometry
    count = len(heights)
    return Task(
        num_levels=count,
        num_images=num_images,
        channels=channels,
        pitch=pitch_of(channels, dtype),
        heights=(ctypes.c_int64 * count)(*heights),
        widths=(ctypes.c_int64 * count)(*widths),
        strides=(ctypes.c_double * count)(*strides),
    )


def num_rows(geometry: Geometry) -> Size:
    """R."""
    heights, widths, _, num_images, _ = geometry
    return num_images * sum(height * width for height, width in zip(heights, widths, strict=True))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where its numbers lie."""
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where their numbers lie."""
    return (ctypes.c_void_p * len(tensors))(*(pointer(tensor) for tensor in tensors))


@torch.library.custom_op(
    "groundup::build_table",
    mutates_args=(),
    schema="(Tensor[] maps) -> Tensor",
    device_types="cpu",
)
def build_table(maps: Sequence[Float[Tensor, "B C _ _"]]) -> Float[Tensor, "R P"]:
    """All maps' places one after the other, level by level, image by image; a row is one place's channels.

    Rows are filled up with zeros to whole vectors.
    """
    geometry = geometry_of(maps)
    dtype = maps[0].dtype
    table = maps[0].new_empty((num_rows(geometry), pitch_of(geometry[-1], dtype)))
    held = [level.contiguous() for level in maps]
    call("fill_table", dtype, build_task(geometry, dtype), pointers(held), pointer(table))
    return table


@build_table.register_fake
def build_fake_table(maps: Sequence[Tensor]) -> Tensor:
    """Its shape."""
    geometry = geometry_of(maps)
    return maps[0].new_empty((num_rows(geometry), pitch_of(geometry[-1], maps[0].dtype)))


@torch.library.custom_op(
    "groundup::read_table",
    mutates_args=(),
    schema=(
        "(Tensor table, SymInt[] heights, SymInt[] widths, SymInt num_images, SymInt channels) -> Tensor[]"
    ),
    device_types="cpu",
)
def read_table(
    table: Float[Tensor, "R P"], heights: Sequence[int], widths: Sequence[int], num_images: int, channels: int
) -> list[Float[Tensor, "B C _ _"]]:
    """The maps that a table was built of: `build_table`'s gradient, too."""
    maps = [
        table.new_empty((num_images, channels, height, width))
        for height, width in zip(heights, widths, strict=True)
    ]
    geometry = (heights, widths, [1.0] * len(heights), num_images, channels)
    held = table.contiguous()
    assert held.shape == (num_rows(geometry), pitch_of(channels, table.dtype)), "the table is of these maps"
    call("read_table", table.dtype, build_task(geometry, table.dtype), pointer(held), pointers(maps))
    return maps


@read_table.register_fake
def read_fake_table(
    table: Tensor, heights: Sequence[Size], widths: Sequence[Size], num_images: Size, channels: Size
) -> list[Tensor]:
    """Their shapes."""
    return [
        table.new_empty((num_images, channels, height, width))
        for height, width in zip(heights, widths, strict=True)
    ]


def keep_for_maps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch's protocol
    """What the gradient of `build_table` needs."""
    heights, widths, _, num_images, channels = geometry_of(inputs[0])
    ctx.geometry = (heights, widths, num_images, channels)


def gradient_of_maps(ctx: Any, gradient: Tensor) -> list[Tensor]:
    """Of `build_table`."""
    maps: list[Tensor] = read_table(gradient, *ctx.geometry)
    return maps


build_table.register_autograd(gradient_of_maps, setup_context=keep_for_maps)

ALIGN_ARGUMENTS = (
    "Tensor boxes, Tensor images, Tensor levels, SymInt[] heights, SymInt[] widths, float[] strides, "
    "SymInt num_images, SymInt channels, SymInt size, int sampling_ratio, bool is_aligned"
)


@torch.library.custom_op(
    "groundup::align_rois",
    mutates_args=(),
    schema=f"(Tensor table, {ALIGN_ARGUMENTS}) -> Tensor",
    device_types="cpu",
)
def align_rois(
    table: Float[Tensor, "R P"],
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    heights: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[float],
    num_images: int,
    channels: int,
    size: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "N C {size} {size}"]:
    """RoIAlign of each box on the map of its level; a box that is not finite gives NaN, and no gradient.

    Args:
        table: of `build_table`.
        boxes: in pixels.
        images: row of the batch each box belongs to.
        levels: map each box is pooled from.
        heights: of the maps, in places.
        widths: of the maps, in places.
        strides: pixels a place, of each map.
        num_images: B.
        channels: C.
        size: cells along each side.
        sampling_ratio: samples along each side of a cell; 0 takes as many as places of the map.
        is_aligned: see `ops.roi.roi_align`.

    Raises:
        IndexError: a finite box names an image or a level that there is none of.
    """
    rois = table.new_empty((len(boxes), channels, size, size))
    geometry = (heights, widths, strides, num_images, channels)
    held = table.contiguous()
    assert held.shape == (num_rows(geometry), pitch_of(channels, table.dtype)), "the table is of these maps"
    task, kept = build_align_task(
        geometry, table.dtype, boxes, images, levels, size, sampling_ratio, is_aligned
    )
    call("align_rois", table.dtype, task, pointer(held), pointer(rois))
    del kept
    return rois


@align_rois.register_fake
def align_fake_rois(table: Tensor, boxes: Tensor, *others: Any) -> Tensor:
    """Its shape."""
    channels, size = others[6], others[7]
    return table.new_empty((len(boxes), channels, size, size))


@torch.library.custom_op(
    "groundup::spread_rois",
    mutates_args=(),
    schema=f"(Tensor rois, {ALIGN_ARGUMENTS}) -> Tensor",
    device_types="cpu",
)
def spread_rois(
    rois: Float[Tensor, "N C {size} {size}"],
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    heights: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[float],
    num_images: int,
    channels: int,
    size: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "R P"]:
    """The table's gradient, of that of the RoIs; arguments as of `align_rois`.

    Each number of it belongs to one thread, which adds to it box by box in their order.
    """
    geometry = (heights, widths, strides, num_images, channels)
    table = rois.new_zeros((num_rows(geometry), pitch_of(channels, rois.dtype)))
    held = rois.contiguous()
    task, kept = build_align_task(
        geometry, rois.dtype, boxes, images, levels, size, sampling_ratio, is_aligned
    )
    call("spread_rois", rois.dtype, task, pointer(held), pointer(table))
    del kept
    return table


@spread_rois.register_fake
def spread_fake_rois(rois: Tensor, *others: Any) -> Tensor:
    """Its shape."""
    geometry = (others[3], others[4], others[5], others[6], others[7])
    return rois.new_empty((num_rows(geometry), pitch_of(geometry[-1], rois.dtype)))


def keep_for_table(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch's protocol
    """What the gradient of `align_rois` needs: no feature, only where they went."""
    ctx.save_for_backward(*inputs[1:4])
    ctx.rest = inputs[4:]


def gradient_of_table(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Of `align_rois`; boxes have none."""
    return spread_rois(gradient, *ctx.saved_tensors, *ctx.rest), *(None,) * (3 + len(ctx.rest))


align_rois.register_autograd(gradient_of_table, setup_context=keep_for_table)


def geometry_of(maps: Sequence[Tensor]) -> Geometry:
    """Of the maps, without their strides."""
    heights, widths = [level.shape[2] for level in maps], [level.shape[3] for level in maps]
    return heights, widths, [1.0] * len(maps), maps[0].shape[0], maps[0].shape[1]


def build_align_task(
    geometry: Geometry,
    dtype: torch.dtype,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    size: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> tuple[Task, tuple[Tensor, ...]]:
    """The task with its RoIs, and the tensors that must live as long as it does."""
    task = build_task(geometry, dtype)
    task.size, task.sampling_ratio, task.is_aligned = size, sampling_ratio, is_aligned
    task.num_boxes = len(boxes)
    kept = (
        boxes.to(dtype).contiguous(),
        images.to(torch.int64).contiguous(),
        levels.to(torch.int64).contiguous(),
    )
    task.boxes, task.images, task.levels = map(pointer, kept)
    return task, kept
