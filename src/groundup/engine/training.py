"""What a training is asked for: options, and what is settled before its first step."""

from dataclasses import dataclass

from pydantic import model_validator

from groundup.config import Options
from groundup.engine.distributed import TIMEOUT
from groundup.engine.numerics import Precision
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import ScheduleOptions, is_late, lr_at, total_images


class UpkeepOptions(Options):
    """What a run does besides learning; none of it changes the weights."""

    log_every: int = 320
    """Images between records of the losses, 20 steps of 16."""
    checkpoint_every: int | None = 80_000
    """Images between checkpoints, 5,000 steps of 16 as in Detectron2; None: by the clock and at the end."""
    checkpoint_seconds: float | None = 900.0
    """Seconds between checkpoints; None: only by images."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay. Two: the older one stands while the newer is proven."""
    keep_at: tuple[int, ...] = ()
    """Images seen after which a checkpoint is written that always stays: where other runs branch off."""
    process_timeout: float = TIMEOUT
    """Seconds that processes which train together wait for one another; a killed one is noticed at once."""
    time_limit: float | None = None
    """Seconds until the run writes a checkpoint and leaves with status 75; None: no limit."""
    tensorboard: bool = True
    """Whether the log is repeated as TensorBoard events."""
    profile: bool = False
    """Whether the log says where a step's time went, part by part. On a GPU each part is then waited for,
    which costs time but no bit; `train --profile` for short."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "UpkeepOptions":
        """Refuse periods that never come."""
        for name in (
            "log_every",
            "checkpoint_every",
            "checkpoint_seconds",
            "keep_checkpoints",
            "process_timeout",
            "time_limit",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, but must be above 0")
        if any(point <= 0 for point in self.keep_at):
            raise ValueError(f"keep_at is {list(self.keep_at)}, but all must be above 0")
        return self


class TrainOptions(Options):
    """How a model learns."""

    schedule: ScheduleOptions = ScheduleOptions()
    """Length, batch size, learning rate."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """How gradients become steps."""
    accumulate: int = 1
    """Microbatches an optimizer step; the batches passed in have schedule.batch_size / accumulate images,
    over all processes. Equal to the big batch for losses that are means over images."""
    precision: Precision = "fp32"
    """fp32 as written, or autocast to bf16, or to fp16 with a loss scale."""
    compile: bool = False
    """Compile the losses with torch.compile; each new shape may be compiled anew (`transforms.buckets`)."""
    capture: bool = False
    """Capture steps as CUDA graphs, one for each shape, and repeat them: for one process on one GPU, with
    `model.roi_slots=fixed` and `transforms.buckets`. With or without `compile`."""
    read_every: int = 1
    """Steps between readings of losses. At 1 every step waits for the GPU to say that its losses are finite;
    above 1 the GPU itself keeps what is not finite from the weights, and the run stops when it is read: at
    the latest before anything is logged, evaluated or saved."""
    evaluate_every: int | None = None
    """Images between evaluations; one always follows the last step. None: only that."""
    deterministic: bool = False
    """Bit-equal runs on a GPU too, slower; a CPU always is."""
    upkeep: UpkeepOptions = UpkeepOptions()
    """Log, checkpoints, limits: no part of a run's identity."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "TrainOptions":
        """Refuse counts and periods below 1, microbatches that do not fill a batch, and unread fp16."""
        if self.precision == "fp16" and (self.capture or self.read_every > 1):
            raise ValueError(
                "precision is fp16, whose loss scale is read at every step, but capture is "
                f"{str(self.capture).lower()} and read_every {self.read_every}: write precision=bf16"
            )
        for name in ("accumulate", "evaluate_every", "read_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if self.schedule.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, "
                f"but must divide schedule.batch_size {self.schedule.batch_size}"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is settled before the first step."""

    options: TrainOptions
    num_images: int
    seed: int
    recipe: str

    @property
    def total(self) -> int:
        """Images of the whole run."""
        return total_images(self.options.schedule, self.num_images)

    @property
    def batch_size(self) -> int:
        """Images a step, of all processes together."""
        return self.options.schedule.batch_size

    def lr(self, images_seen: int) -> float:
        """Rate of the step that begins there."""
        return lr_at(images_seen, self.options.schedule, self.num_images)

    def is_late(self, images_seen: int) -> bool:
        """Whether late parts take part in the step that begins there."""
        return is_late(images_seen, self.options.schedule, self.num_images)

    def is_due(self, images_seen: int, every: int | None) -> bool:
        """Whether something done every so many images is done after the step that ended there."""
        return every is not None and images_seen // every > (images_seen - self.batch_size) // every
