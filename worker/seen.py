"""What the steps of a run have shown so far: a few figures that its checkpoints carry on and its model card states."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.runs import StepRecord


@dataclass(slots=True)
class Seen:
    """Figures over all steps taken, those before a resume included. Losses: of whole batches, lowest with its step."""

    n_steps: int = 0
    n_verified: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    lowest_loss: float | None = None
    lowest_step: int | None = None

    def add(self, record: StepRecord) -> None:
        """Take in the next step."""
        self.n_steps += 1
        self.n_verified += record.verified is True
        self.last_loss = record.loss
        if self.first_loss is None:
            self.first_loss = record.loss
        if self.lowest_loss is None or record.loss < self.lowest_loss:
            self.lowest_loss, self.lowest_step = record.loss, record.step

    def write(self) -> dict[str, Any]:
        """Return it as JSON, for a checkpoint's manifest."""
        return asdict(self)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Seen":
        """Read what `write` returned."""
        return cls(**value)
