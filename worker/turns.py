"""Settings of a training whose routers learn in turn with its experts. What they learn: consistency.py."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from backend.domain.errors import InvalidInput, NotSupported
from worker.abilities import why_no_router_training
from worker.examples import TrainBatch
from worker.masking import Learn
from worker.sites import MoeSite

TERM = "consistency"


@dataclass(frozen=True, slots=True)
class Routers:
    """Every second step teaches the routers. learning_rate: theirs; None: that of the run. No weight decay."""

    learning_rate: float | None = None
    term: str = TERM

    @classmethod
    def of(cls, value: "Routers | Mapping[str, Any] | None") -> "Routers | None":
        """Read {"learning_rate"}; None where routers stay as they are."""
        return value if value is None or isinstance(value, Routers) else cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    def validate(self) -> None:
        """Raise InvalidInput, naming the field, for settings that say nothing."""
        if self.term != TERM:
            raise InvalidInput(f"routers can learn `{TERM}`, not {self.term!r}.", ("routers", "term"))
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InvalidInput(
                f"the routers' learning_rate is {self.learning_rate}; it must be above 0, or null.",
                ("routers", "learning_rate"),
            )


def check_routers(
    routers: Routers, mode: str, *, adapter: bool, sharded: bool, preserve_batches: bool, batches: Sequence[TrainBatch]
) -> None:
    """Raise InvalidInput, naming the field, for a run in which routers could not learn in turn."""
    routers.validate()
    for wrong, what, place in (
        (mode != Learn.SELECTED, f"what learns beside them must be `selected`, not `{mode}`", "mode"),
        (adapter, "an adapter's files could not hold them: leave adapter null", "adapter"),
        (sharded, "they need whole weights: leave shard_weights off", "shard_weights"),
        (
            not preserve_batches,
            "counterparts stand in one analysis batch: leave preserve_batches on",
            "preserve_batches",
        ),
    ):
        if wrong:
            raise InvalidInput(f"routers that learn in turn: {what}.", (place,))
    for batch in batches:
        labels = [str(e.label) for e in batch.examples]
        if not batch.pairs:
            raise InvalidInput(
                f"batch {batch.batch_idx} holds no safe prompt with an unsafe counterpart, so its routers would learn "
                "nothing: plan the analysis with strategy `paired`.",
                ("routers",),
            )
        if labels != sorted(labels):
            raise InvalidInput(f"batch {batch.batch_idx} must hold its safe samples first.", ("batches",))


def router_parameters(sites: Sequence[MoeSite]) -> list[nn.Parameter]:
    """Return every weight of every router, once; corrections that a family keeps out of training are left out.

    Raises NotSupported, naming the router, where it hides its scores.
    """
    why = why_no_router_training(sites)
    if why is not None:
        raise NotSupported(f"The routers of this model cannot be trained: {why} Leave routers null.")
    found: dict[int, nn.Parameter] = {}
    for site in sites:
        assert site.router is not None
        found |= {id(p): p for p in site.router.parameters() if p.requires_grad}
    return list(found.values())
