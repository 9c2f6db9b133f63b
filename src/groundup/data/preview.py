"""Training samples drawn as the model sees them, after every transform."""

import itertools
from pathlib import Path

from groundup.data.coco import Index
from groundup.data.copy_paste import Pasted
from groundup.data.images import ImagePolicy
from groundup.data.loader import BatchSource, training_order, training_requests, usable_rows
from groundup.data.statistics import PAGE_COLUMNS, draw_annotated
from groundup.data.transforms import TransformOptions
from groundup.errors import DataError
from groundup.pictures import draw_sheet, write_picture
from groundup.shares import Share


def draw_samples(
    index: Index,
    transforms: TransformOptions,
    policy: ImagePolicy,
    path: Path,
    *,
    num_pictures: int,
    seed: int,
    group_size: int,
) -> None:
    """Write a page of the first samples of a training, with their truth.

    Args:
        index: the photographs.
        transforms: what becomes of them.
        policy: which photographs may come in.
        path: of the page.
        num_pictures: samples, from position 0 on.
        seed: of the run.
        group_size: of the run (`loader.train_batches`).

    Raises:
        DataError: nothing to learn from, or a photograph that cannot be read.
    """
    rows = usable_rows(index)
    if not len(rows):
        raise DataError(f"{index.annotations}: no image has a usable instance to draw")
    source = BatchSource(index, transforms, policy)
    order = training_order(index, rows, seed, 0, group_size)
    requests = training_requests(source, rows, order, seed, 0, Share(num_images=1))
    pictures, captions = [], []
    for request in itertools.islice(requests, num_pictures):
        pasted = source.pasted(request.rows[0], request.seeds[0])
        pictures.append(draw_annotated(index, pasted.picture.truth, pasted.picture.image))
        captions.append(f"{described(pasted)}: {index.file_name(request.rows[0])}")
    write_picture(path, draw_sheet(pictures, captions, PAGE_COLUMNS, "training samples"))


def described(pasted: Pasted) -> str:
    """What is in the picture, in numbers."""
    counts = f"{len(pasted.picture.truth.boxes)} instances"
    if pasted.num_pasted or pasted.num_hidden:
        counts += f", {pasted.num_pasted} pasted, {pasted.num_hidden} hidden"
    return counts
