"""Parts of a model that take part only in the last units of a run, as the further stages of a cascade can.

Whether they do is a function of the images seen (`schedule.is_late`). Until then they are in no graph: they
get no gradient, so neither decay nor momentum moves them, and the optimizer holds nothing for them.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn

from groundup.engine.optimizer import trained_parameters
from groundup.engine.schedule import ScheduleOptions
from groundup.engine.state import TrainingState
from groundup.errors import UsageError


@runtime_checkable
class HasLateParts(Protocol):
    """A module that knows such parts. Its state dictionary says whether they take part."""

    @property
    def has_late_parts(self) -> bool:
        """Whether there are any in this one."""

    def use_late_parts(self, is_on: bool) -> bool:
        """Let them take part from now on, or not; whether that changed anything."""

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are in no graph now."""


def check_late_parts(model: nn.Module, options: ScheduleOptions) -> None:
    """Refuse a schedule that speaks of late parts to a model without any.

    Raises:
        UsageError: it does.
    """
    has_any = isinstance(model, HasLateParts) and model.has_late_parts
    if options.late_units is not None and not has_any:
        raise UsageError(
            f"schedule.late_units is {options.late_units}, but this {type(model).__name__} has no parts that "
            "can come late: write schedule.late_units=null, or give a detector model.cascade={}"
        )


def enter_phase(state: TrainingState, *, is_late: bool) -> None:
    """Bring the model, and its average, into the form in which the next step is taken.

    Where that changes anything, operations are counted anew on the next batch. The averaged weights of the
    late parts begin with the average's own.
    """
    for model in (state.model, state.judged):
        if isinstance(model, HasLateParts) and model.use_late_parts(is_late):
            state.flops_per_pixel = None


def parameters_in_use(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get a gradient in the next step, by name: all that learn but those of idle parts.

    The same in every process that trains together, since it follows from the images seen.
    """
    idle = {id(p) for p in model.idle_parameters()} if isinstance(model, HasLateParts) else set()
    return {name: p for name, p in trained_parameters(model).items() if id(p) not in idle}
