"""Which images of a batch are whose, where several processes train together.

A loss is divided by counts within groups of `loss_images` images (`models.losses`) and is the mean over the
groups. So whole groups are dealt, in their order, and a process's mean counts by its part of the groups: the
sum over processes is the whole batch's loss, also where they hold unequal numbers of images.
"""

from dataclasses import dataclass

from groundup.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of each batch is this process's.

    Raises:
        UsageError: there are fewer groups than processes.
    """

    num_images: int
    """Of the batch of all processes together."""
    group_size: int = 1
    """Consecutive images that stay together; the last group may be smaller."""
    rank: int = 0
    """This process, 0 .. world_size - 1."""
    world_size: int = 1

    def __post_init__(self) -> None:
        """Refuse a process without work: it would wait for the others and add nothing."""
        if self.num_groups < self.world_size:
            raise UsageError(
                f"{self.num_images} images pass through the model at once, in {self.num_groups} groups of "
                f"model.loss_images {self.group_size}: too few for {self.world_size} processes; start at "
                f"most {self.num_groups}, raise schedule.batch_size, or lower training.accumulate"
            )

    @property
    def num_groups(self) -> int:
        """Groups of the batch."""
        return -(-self.num_images // self.group_size)

    @property
    def own(self) -> slice:
        """Places of this process's images in the batch."""
        return slice(self._first(self.rank), self._first(self.rank + 1))

    @property
    def num_own(self) -> int:
        """How many they are."""
        return self._first(self.rank + 1) - self._first(self.rank)

    @property
    def weight(self) -> float:
        """By how much the mean over this process's groups counts in the mean over all."""
        own = self._first_group(self.rank + 1) - self._first_group(self.rank)
        return own / self.num_groups

    def _first_group(self, rank: int) -> int:
        return rank * self.num_groups // self.world_size

    def _first(self, rank: int) -> int:
        return min(self._first_group(rank) * self.group_size, self.num_images)
