"""Batches from an index: endless for training, once through for evaluation.

What a batch holds is decided here, in the main process, by pure functions of (seed, position);
workers only carry it out. So batches are bit-identical for any number of workers and after any
restart, and processes of a distributed training share one order without talking.

Legend:
    N  images of the index
"""

import itertools
import math
import signal
import threading
import time
import types
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Int, Int64
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

from groundup.config import Options
from groundup.data.buckets import bucket_of, pad_truth
from groundup.data.coco import Category
from groundup.data.collate import build_batch, build_sample, padded_size
from groundup.data.copy_paste import Pasted, Picture, choose_instances, draw_donor, paste_instances
from groundup.data.geometry import mirror_table
from groundup.data.images import ImagePolicy, decode_image
from groundup.data.order import batches_of_alike, image_order, sample_seed
from groundup.data.transforms import TransformOptions, apply_transforms, evaluation_view, training_view
from groundup.data.truth import Truth
from groundup.errors import DataError, GroundupError
from groundup.shares import Share
from groundup.structures import Batch, Sample

Made = TypeVar("Made")
"""What a worker makes of a request."""

EVALUATION_SEED = 0
"""Seed of evaluation samples, whose geometry has nothing random."""

SECONDS_BETWEEN_CHECKS = 1.0
"""How often waiting for a batch looks whether the workers live."""


@runtime_checkable
class Annotated(Protocol):
    """Photographs and their truth by row, as `data.coco.Index` holds them; it must pickle small."""

    @property
    def num_images(self) -> int:
        """N."""
        ...

    @property
    def image_ids(self) -> Int64[np.ndarray, " N"]:
        """Ids in the annotation file."""
        ...

    @property
    def sizes(self) -> Int[np.ndarray, "N 2"]:
        """(height, width) as the annotation states."""
        ...

    @property
    def num_usable(self) -> Int[np.ndarray, " N"]:
        """Instances of each image that may be learnt from."""
        ...

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes, by label."""
        ...

    @property
    def num_keypoints(self) -> int:
        """Keypoints an instance; 0 where there are none."""
        ...

    def path(self, row: int) -> Path:
        """The photograph's file."""
        ...

    def truth(self, row: int) -> Truth:
        """The photograph's usable instances."""
        ...


class LoaderOptions(Options):
    """How photographs are read ahead. Nothing here changes what a batch holds."""

    num_workers: int = Field(default=2, ge=0)
    """Processes that read ahead for each process that trains; 0 reads in the training process itself."""
    prefetch: int = Field(default=4, ge=1)
    """Batches each worker keeps ready."""
    timeout: float = Field(default=60.0, ge=0)
    """Seconds to wait for one batch of the workers before they count as dead; 0 waits for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A batch to be made: rows of the index and, for training, the samples' seeds."""

    rows: tuple[int, ...]
    seeds: tuple[int, ...]
    train: bool
    smallest: tuple[int, int] = (1, 1)
    """(height, width) that the padded images have at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A fault a user can mend, brought home from a worker without its traceback."""

    error: GroundupError


class BatchSource(Dataset[Batch | Refusal]):
    """Makes the requested batch; a pure function of the request."""

    def __init__(self, index: Annotated, transforms: TransformOptions, policy: ImagePolicy) -> None:
        """Keep what every sample needs."""
        self.index = index
        self.transforms = transforms
        self.policy = policy
        self.mirrors = mirror_table([kind.flip_pairs for kind in index.categories], index.num_keypoints)
        self.donors = usable_rows(index) if transforms.copy_paste is not None else np.zeros(0, np.int64)

    def __getitem__(self, request: Request) -> Batch | Refusal:
        """The batch, or every photograph of it that cannot be used."""
        samples = made_or_refused(
            lambda row, seed: self.sample(row, seed, train=request.train), request.rows, request.seeds
        )
        if isinstance(samples, Refusal):
            return samples
        jitter = self.transforms.large_scale_jitter if request.train else None
        smallest = (jitter.size, jitter.size) if jitter else request.smallest
        buckets = self.transforms.buckets if request.train else None
        if buckets is None:
            return build_batch(samples, smallest=smallest)
        sides = zip(smallest, *(sample.image.shape[1:] for sample in samples), strict=True)
        height, width = (max(side) for side in sides)
        return pad_truth(build_batch(samples, smallest=bucket_of((height, width), buckets)), buckets)

    def largest_size(self, rows: Iterable[int], seeds: Iterable[int]) -> tuple[int, int]:
        """(height, width) that holds each of the photographs as training sees them; none is read."""
        views = [
            training_view((int(height), int(width)), self.transforms, seed).size
            for (height, width), seed in zip(self.index.sizes[list(rows)], seeds, strict=True)
        ]
        return max(height for height, _ in views), max(width for _, width in views)

    def sample(self, row: int, seed: int, *, train: bool) -> Sample:
        """The photograph of the row, transformed as its seed says."""
        picture = self.pasted(row, seed).picture if train else self.picture(row, None)
        size = (int(self.index.sizes[row, 0]), int(self.index.sizes[row, 1]))
        return build_sample(picture.image, picture.truth, size, int(self.index.image_ids[row]), seed)

    def pasted(self, row: int, seed: int) -> Pasted:
        """The row's photograph as training sees it, with what is pasted into it."""
        scene, options = self.picture(row, seed), self.transforms.copy_paste
        donor = None if options is None else draw_donor(len(self.donors), seed, options)
        if options is None or donor is None:
            return Pasted(picture=scene, num_pasted=0, num_hidden=0)
        place, donor_seed = donor
        other = self.picture(int(self.donors[place]), donor_seed)
        rows = choose_instances(len(other.truth.boxes), seed, options)
        return paste_instances(scene, other, rows, options)

    def picture(self, row: int, seed: int | None) -> Picture:
        """The row's photograph in the view that the seed names, or that of evaluation."""
        size = (int(self.index.sizes[row, 0]), int(self.index.sizes[row, 1]))
        photograph = decode_image(self.index.path(row), size, self.policy)
        truth = self.index.truth(row)
        image, seen = apply_transforms(photograph, truth, self.transforms, seed, self.mirrors)
        return Picture(image=image, truth=seen)


def made_or_refused(make: Callable[..., Made], *columns: Iterable[Any]) -> list[Made] | Refusal:
    """What `make` makes of each row of the columns, or all that users must mend first."""
    made, faults = [], []
    for row in zip(*columns, strict=True):
        try:
            made.append(make(*row))
        except GroundupError as error:
            faults.append(error)
    return Refusal(error=type(faults[0])("; ".join(str(fault) for fault in faults))) if faults else made


def train_batches(
    index: Annotated,
    transforms: TransformOptions,
    options: LoaderOptions,
    *,
    batch_size: int,
    seed: int,
    first_position: int = 0,
    rank: int = 0,
    world_size: int = 1,
    group_size: int | None = None,
    policy: ImagePolicy | None = None,
) -> Iterator[Batch]:
    """Training batches without end, from a position of the order on.

    Images without a usable instance are left out (`usable_rows`).

    Args:
        index: the photographs.
        transforms: their geometry.
        options: how they are read ahead.
        batch_size: images in one batch of all processes together. Each gets its share (`shares.Share`),
            padded to what the whole batch needs: a norm's statistics over padding are then those of one
            process.
        seed: names the order and every sample's randomness.
        first_position: images that all processes together have seen before.
        rank: this process, 0 .. world_size - 1.
        world_size: processes that share the order.
        group_size: consecutive positions that share an orientation (`order.image_order`) and a process; 1
            turns grouping off. None means `batch_size`. It is the one number beside the seed that changes
            the order: give it where an order shall outlive a change of batch size.
        policy: which photographs may come in; None is the default policy.

    Raises:
        UsageError: more processes than groups.
        DataError: no image to train on, an unusable photograph, or a worker that died or hangs.
    """
    share = Share(
        num_images=batch_size, group_size=group_size or batch_size, rank=rank, world_size=world_size
    )
    rows = usable_rows(index)
    if not len(rows):
        raise DataError(
            f"none of the {index.num_images} images has an instance to learn from; see `groundup data check`"
        )
    order = training_order(index, rows, seed, first_position, group_size or batch_size)
    source = BatchSource(index, transforms, policy or ImagePolicy())
    requests = training_requests(source, rows, order, seed, first_position, share)
    return load_batches(source, requests, options)


def evaluation_batches(
    index: Annotated,
    transforms: TransformOptions,
    options: LoaderOptions,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    policy: ImagePolicy | None = None,
    alike: bool = False,
) -> Iterator[Batch]:
    """Every image once, with the evaluation geometry; the last batch may be smaller.

    Args and errors are those of `train_batches`, but `batch_size` counts the images of one process. Batches
    are the same for any number of processes; each takes consecutive ones, and some may have none.

    `alike` puts images together only where each is padded as it would be alone, so that what a model makes of
    one (a group norm sees padding) does not hang on the others; without it images come in row order.
    """
    kinds = None
    if alike:
        sizes = [(int(height), int(width)) for height, width in index.sizes]
        kinds = [padded_size(evaluation_view(size, transforms).scaled) for size in sizes]
    requests = evaluation_requests(index.num_images, batch_size, rank, world_size, kinds)
    source = BatchSource(index, transforms, policy or ImagePolicy())
    return load_batches(source, requests, options)


def evaluation_requests(
    num_images: int, batch_size: int, rank: int, world_size: int, kinds: Sequence[Hashable] | None = None
) -> list[Request]:
    """The process's consecutive part of all batches: rows in order, or those of equal kinds together."""
    groups = batches_of_alike(kinds or [None] * num_images, batch_size)
    own = slice(rank * len(groups) // world_size, (rank + 1) * len(groups) // world_size)
    return [
        Request(rows=rows, seeds=tuple(sample_seed(EVALUATION_SEED, row) for row in rows), train=False)
        for rows in groups[own]
    ]


def usable_rows(index: Annotated) -> Int64[np.ndarray, " rows"]:
    """Rows of the images that training shows: those with an instance to learn from."""
    return np.flatnonzero(np.asarray(index.num_usable) > 0)


def training_order(
    index: Annotated, rows: Int64[np.ndarray, " rows"], seed: int, first_position: int, group_size: int
) -> Iterator[int]:
    """Places among the usable rows, from a position on and without end (`order.image_order`)."""
    is_landscape = index.sizes[rows, 1] >= index.sizes[rows, 0]
    return image_order(len(rows), seed, first_position, is_landscape=is_landscape, group_size=group_size)


def training_requests(
    source: BatchSource,
    rows: Int64[np.ndarray, " rows"],
    order: Iterator[int],
    seed: int,
    first_position: int,
    share: Share,
) -> Iterator[Request]:
    """One request a batch, without end: the process's share of the batch's positions."""
    for start in itertools.count(first_position, share.num_images):
        places = [int(rows[place]) for place in itertools.islice(order, share.num_images)]
        seeds = [sample_seed(seed, position) for position in range(start, start + share.num_images)]
        yield Request(
            rows=tuple(places[share.own]),
            seeds=tuple(seeds[share.own]),
            train=True,
            smallest=source.largest_size(places, seeds) if share.world_size > 1 else (1, 1),
        )


def load_batches(
    source: Dataset[Made | Refusal], requests: Iterable[Request], options: LoaderOptions
) -> Iterator[Made]:
    """The requested batches in order, read ahead by workers.

    Raises:
        DataError: a photograph that cannot be used, or a worker that died or hangs.
    """
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=requests,
        num_workers=options.num_workers,
        prefetch_factor=options.prefetch if options.num_workers else None,
        timeout=min(SECONDS_BETWEEN_CHECKS, options.timeout or math.inf) if options.num_workers else 0,
        collate_fn=as_is,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    batches = start_workers(loader)
    while (batch := next_batch(batches, options)) is not None:
        if isinstance(batch, Refusal):
            raise batch.error
        yield batch


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, whose dead workers are found when a batch is asked for, and only then.

    torch also raises from a SIGCHLD handler, in the middle of whatever the main thread does, be it
    the writing of a checkpoint; that handler is taken back.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; our workers touch no lock the threads hold.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler if handler is not None else signal.SIG_DFL)
    return batches


def next_batch(batches: Iterator[Any], options: LoaderOptions) -> Any:
    """The next batch or refusal; None at the end.

    torch looks for dead workers each time a wait ends in vain, so waits are short and repeated.

    Raises:
        DataError: a worker died, or no batch came in time.
    """
    deadline = time.monotonic() + (options.timeout or math.inf)
    while True:
        try:
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            # A worker's death also breaks the connections to tensors it has sent; asking again
            # waits until torch has found out which worker it was.
            is_broken = isinstance(error, OSError | EOFError) and "Caught" not in str(error)
            may_come = options.num_workers > 0 and (is_broken or "timed out" in str(error))
            if not may_come or time.monotonic() >= deadline:
                raise worker_error(error, options) from None


def as_is(batch: Any) -> Any:
    """The batch, which is collated already."""
    return batch


def start_worker(_worker: int) -> None:
    """Prepare a worker process: one thread, and signals left to the process that trains.

    A signal to the whole process group (Ctrl-C, a scheduler's SIGTERM) asks the training process to
    finish its step and write a checkpoint; a worker that died of it would turn that into a failure.
    A second SIGTERM means the worker.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, heed_next_signal)


def heed_next_signal(number: int, _frame: types.FrameType | None) -> None:
    """Let the next signal of the kind end the process."""
    signal.signal(number, signal.SIG_DFL)


def worker_error(error: Exception, options: LoaderOptions) -> Exception:
    """The loader's error as one line with a way out; any other error as it is."""
    first_line = str(error).splitlines()[0] if str(error) else ""
    if "timed out" in first_line:
        return DataError(
            f"no batch in {options.timeout:g} s from {options.num_workers} loader workers: storage hangs, "
            "or batches take longer (raise the loader's timeout)"
        )
    if "exited unexpectedly" in first_line or "is killed by signal" in first_line:
        return DataError(
            f"a loader worker died: {first_line}; where memory ran out, lower num_workers or prefetch"
        )
    return error
