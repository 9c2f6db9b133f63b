"""What a trained detector finds in files and folders of photographs: a picture of each, and one json."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from groundup.data.decoding import Photograph
from groundup.data.images import SUFFIXES
from groundup.detector import Detector, Report, draw_detections, load_detector, with_tta
from groundup.engine.evaluate import results_of
from groundup.errors import DataError
from groundup.pictures import write_picture
from groundup.records import write_json
from groundup.structures import Detections

MAX_STEM = 50
"""Characters of a photograph's name in that of its overlay: file systems allow 255 bytes."""
MAX_WAITING = 8
"""Overlays that wait to be written; each holds its photograph."""


class OverlayWriter:
    """Draws and writes overlays beside the model: compressing a PNG can take as long as detecting in it."""

    def __init__(self) -> None:
        """Begin with none waiting."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="overlay")
        self.waiting: deque[Future[None]] = deque()

    def write(self, draw: Callable[[], None]) -> None:
        """Have an overlay drawn and written; waits where too many are.

        Raises:
            CheckpointError: an earlier one could not be written.
        """
        self.waiting.append(self.pool.submit(draw))
        while len(self.waiting) > MAX_WAITING:
            self.waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all are written.

        Raises:
            CheckpointError: one could not be written.
        """
        try:
            while self.waiting:
                self.waiting.popleft().result()
        finally:
            self.pool.shutdown(cancel_futures=True)


def photographs_in(paths: Sequence[Path]) -> list[Path]:
    """The photographs named, those of a named folder in the order of their names.

    Raises:
        DataError: a path that does not exist, or nothing found.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such photograph or folder")
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no photographs found")
    return found


def predict_run(
    folder: Path,
    images: Sequence[Path],
    out: Path,
    *,
    threshold: float,
    tta: str | None = None,
    batch_size: int | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Detect in photographs; write an overlay each and `predictions.json` to the folder `out`.

    `tta` replaces the recipe's test-time augmentation (see `with_tta`), `batch_size` how many photographs
    pass through the model at once.

    Returns:
        For each photograph its file, overlay, size and all detections (with category id and name); the
        overlay shows those of at least the threshold.

    Raises:
        CheckpointError: the folder is no run, or the folder `out` cannot be written.
        UsageError: a test-time augmentation that cannot be.
        DataError: photographs that cannot be read, all of them named; the others are written.
    """
    detector = with_tta(load_detector(folder), tta)
    photographs = photographs_in(images)
    records, faults = [], []
    overlays = OverlayWriter()
    try:
        for photograph, found in detector.look_at(photographs, batch_size=batch_size):
            if found is None:
                faults.append(str(photograph.fault))
            else:
                overlay = out / f"{photograph.number:04d}-{photograph.path.stem[:MAX_STEM]}.png"
                overlays.write(overlay_of(detector, photograph, found, overlay, threshold))
                records.append(record_of(detector, photograph, found, overlay))
            if report is not None:
                report(photograph.number + 1, len(photographs))
    finally:
        overlays.finish()
    if records:
        write_json(out / "predictions.json", records)
    if faults:
        rest = f", {len(records)} others are in {out / 'predictions.json'}" if records else ""
        raise DataError(
            f"{len(faults)} of {len(photographs)} photographs cannot be read{rest}: {'; '.join(faults)}"
        )
    return records


def overlay_of(
    detector: Detector, photograph: Photograph, found: Detections, overlay: Path, threshold: float
) -> Callable[[], None]:
    """What draws and writes a photograph's overlay."""
    image = photograph.image
    assert image is not None, "something was found in it"
    return lambda: write_picture(overlay, draw_detections(detector, image, found, threshold))


def record_of(detector: Detector, photograph: Photograph, found: Detections, overlay: Path) -> dict[str, Any]:
    """A photograph's detections as `predictions.json` holds them."""
    ids = [category.id for category in detector.categories]
    names = dict(zip(ids, detector.names, strict=True))
    by_kind = results_of(found, ids, paste=detector.recipe.evaluation.paste)
    merged = [
        {**{key: value for result in parts for key, value in result.items() if key != "image_id"},
         "category": names[parts[0]["category_id"]]}
        for parts in zip(*by_kind.values(), strict=True)
    ]  # fmt: skip
    return {
        "file": str(photograph.path),
        "overlay": str(overlay),
        "height": found.size[0],
        "width": found.size[1],
        "detections": merged,
    }
