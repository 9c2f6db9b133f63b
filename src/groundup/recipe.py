"""What a training of a detector is: photographs, model, start, schedule, judgement, in one printed tree."""

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from groundup.config import Options, vary
from groundup.data.coco import MAX_DROPPED_RATIO, Difficult
from groundup.data.images import ImagePolicy
from groundup.data.loader import LoaderOptions
from groundup.data.overlap import Overlap
from groundup.data.regimes import share_of
from groundup.data.transforms import TransformOptions
from groundup.engine.evaluate import EvaluationOptions
from groundup.engine.training import TrainOptions
from groundup.models.rcnn import DetectorOptions
from groundup.models.start import StartOptions, check_start
from groundup.run_folder import RunRecipe


class SplitOptions(Options):
    """One split of a data set."""

    annotations: Path | None = None
    """COCO json (instances or person_keypoints)."""
    images: Path | None = None
    """Folder that the file names in it are relative to; None: the folder of the json."""


class DataOptions(Options):
    """Which photographs are learnt from, and which are judged by."""

    train: SplitOptions = SplitOptions()
    """Learnt from."""
    val: SplitOptions = SplitOptions()
    """Evaluated on; never learnt from."""
    fraction: float = 1.0
    """Share of the training images that is used; smaller shares are contained in larger ones. The paper's
    regimes go by name: 35k, 10k, 3.5k and 1k are the shares that they are of COCO."""
    images: int | None = None
    """Number of training images that is used, exactly so many, instead of a share; None: the share."""
    fraction_seed: int = 0
    """Names the draw of the share or number."""
    difficult: Difficult | None = None
    """Whether training learns from objects that bear Pascal VOC's mark `difficult`: `keep` (as Detectron2) or
    `drop`; None: as from others, that is unless they are crowds, as our converter makes them."""
    max_dropped_ratio: float = MAX_DROPPED_RATIO
    """Share of the instances that may be unusable before opening a set is an error."""
    min_keypoints: int = Field(default=0, ge=0)
    """Training images with fewer labelled keypoints, all their instances together, are left out before a
    share is drawn; 0 keeps all. Detectron trains a keypoint head on images with at least one."""
    overlap: Overlap = "refuse"
    """What is done where both splits hold the same photograph, byte for byte: `refuse`, or `accept`."""
    policy: ImagePolicy = ImagePolicy()
    """How photographs are read."""

    @field_validator("fraction", mode="before")
    @classmethod
    def _take_names(cls, value: object) -> object:
        """A regime's name stands for its share."""
        return share_of(value)

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "DataOptions":
        """Refuse a share of nothing, and a part whose size is given twice."""
        if self.images is not None and (self.images < 1 or self.fraction != 1):
            raise ValueError(
                f"images is {self.images} and fraction {self.fraction}; images is a number from 1 on, "
                "which stands in place of a fraction"
            )
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}, but must lie in 0 (excluded) .. 1")
        return self


class Recipe(RunRecipe):
    """The complete description of one training of a detector."""

    data: DataOptions = DataOptions()
    """Photographs."""
    transforms: TransformOptions = TransformOptions()
    """Their geometry."""
    loader: LoaderOptions = LoaderOptions()
    """How they reach the model."""
    model: DetectorOptions
    """The detector."""
    start: StartOptions = StartOptions()
    """Where its weights begin: `start=scratch`, or `start=FILE` for short."""
    training: TrainOptions = TrainOptions()
    """Schedule, optimizer, precision, upkeep."""
    evaluation: EvaluationOptions = EvaluationOptions()
    """How it is judged."""
    seed: int = 0
    """Names every random draw of the run: first weights, order, augmentation, sampling."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Recipe":
        """Refuse starts that do not fit the model, and late parts that it does not have."""
        check_start(self.start, self.model.backbone)
        late_units = self.training.schedule.late_units
        if late_units is not None and self.model.cascade is None:
            raise ValueError(
                f"training.schedule.late_units is {late_units}, but there is no cascade "
                "that could come late: write training.schedule.late_units=null, or model.cascade={}"
            )
        return self

    @model_validator(mode="after")
    def _refuse_capture_of_changing_shapes(self) -> "Recipe":
        """Refuse to capture steps whose shapes hang on the data."""
        if self.training.capture and (self.model.roi_slots != "fixed" or self.transforms.buckets is None):
            raise ValueError(
                "training.capture repeats steps of one shape: write model.roi_slots=fixed "
                "and transforms.buckets={} too, or training.capture=false"
            )
        return self

    @property
    def microbatch(self) -> int:
        """Images that pass through the model at once."""
        return self.training.schedule.batch_size // self.training.accumulate


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with data that any working directory finds."""
    paths = {
        f"data.{split}.{name}": str(path.absolute())
        for split, options in (("train", recipe.data.train), ("val", recipe.data.val))
        for name, path in (("annotations", options.annotations), ("images", options.images))
        if path is not None
    }
    return vary(recipe, paths)
