"""What learns: the weights of an expert set, everything but them, or everything.

Fused expert parameters hold all experts of a layer in one tensor, so a mask on gradients is not enough: weight decay
and momentum would still move every row. Here the optimizer owns only the chosen rows (row_adamw.py), and clipping
measures and scales only them. Not covered: how tokens are routed meanwhile (masked_routing.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from backend.domain.errors import InvalidInput
from backend.domain.turns import Turn
from backend.domain.vocabulary import Expert
from worker.ranks import Ranks
from worker.row_adamw import OwnedRows, RowAdamW
from worker.sharding import local
from worker.sites import ExpertTensor, MoeSite

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Learn(StrEnum):
    """What learns. SELECTED: the set's weights. ALL_BUT_SELECTED: everything except them. FULL: everything."""

    SELECTED = "selected"
    ALL_BUT_SELECTED = "all_but_selected"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """An expert set as training uses it: one for all steps, or one per batch (keyed by batch_id)."""

    everywhere: frozenset[Expert] = frozenset()
    per_batch: Mapping[str, frozenset[Expert]] | None = None

    @classmethod
    def of(cls, experts: Iterable[Expert] | Mapping[str, Iterable[Expert]] | None) -> "ExpertChoice":
        """Read pairs (layer, expert), or {batch_id: pairs}, or None for no set."""
        if isinstance(experts, Mapping):
            return cls(per_batch={batch_id: _pairs(pairs) for batch_id, pairs in experts.items()})
        return cls(_pairs(experts or ()))

    def at(self, batch_id: str | None) -> frozenset[Expert]:
        """Return the set of one step. Raises InvalidInput if the set is per batch and does not know this one."""
        if self.per_batch is None:
            return self.everywhere
        if batch_id is None or batch_id not in self.per_batch:
            raise InvalidInput(f"the per_batch expert set holds no experts for batch {batch_id}.", ("expert_set_id",))
        return self.per_batch[batch_id]

    @property
    def union(self) -> frozenset[Expert]:
        """Every expert that is in the set at some step."""
        return self.everywhere if self.per_batch is None else frozenset().union(*self.per_batch.values())

    @property
    def common(self) -> frozenset[Expert]:
        """The experts that are in the set at every step."""
        if self.per_batch is None:
            return self.everywhere
        sets = list(self.per_batch.values())
        return sets[0].intersection(*sets[1:]) if sets else frozenset()


def _pairs(experts: Iterable[Sequence[int]]) -> frozenset[Expert]:
    return frozenset((int(layer), int(expert)) for layer, expert in experts)


class LearningWeights:
    """The weights of a model that learn under a mode and an expert set.

    Making one sets `requires_grad` of every parameter. A layer with two sites means both of them. routers: weights that
    learn in steps of their own (router_steps.py); nothing else asks for gradients then, and the other way round.
    Raises InvalidInput for an empty set, or an expert that the model does not have or that has no weights.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[MoeSite],
        choice: ExpertChoice,
        mode: Learn,
        routers: Sequence[nn.Parameter] = (),
    ) -> None:
        self.choice, self.mode = choice, mode
        check_experts(sites, choice.union)
        if mode is not Learn.FULL and not choice.union:
            raise InvalidInput(
                f"what learns is `{mode}`, but the expert set is empty: choose a set that keeps at least one expert.",
                ("expert_set_id",),
            )
        self._layers: list[tuple[int, OwnedRows]] = []
        split: set[int] = set()
        for layer, owned in self._split(sites):
            split.add(id(owned.parameter))
            self._layers.append((layer, owned))
        others = [p for p in model.parameters() if id(p) not in split]
        self.rows = [owned for _, owned in self._layers if owned.wanted]
        self.whole = [] if mode is Learn.SELECTED else others
        self.routers = [OwnedRows(p, p.shape[0], (0,)) for p in routers]
        _let_learn(model, [*self.whole, *(owned.parameter for owned in self.rows)])

    def _split(self, sites: Sequence[MoeSite]) -> Iterable[tuple[int, OwnedRows]]:
        """Yield what some experts own a part of, with the layer they are of."""
        for site, tensor in _touched(sites, self.choice, self.mode):
            yield site.spec.layer, OwnedRows(tensor.parameter, tensor.rows, self._owned(site, tensor))

    def _owned(self, site: MoeSite, tensor: ExpertTensor) -> Iterable[int]:
        """Return the experts of a tensor that learn at some step: those state is kept for."""
        layer = site.spec.layer
        if self.mode is Learn.SELECTED:
            return [e for e in range(tensor.n_experts) if (layer, e) in self.choice.union]
        return [e for e in range(tensor.n_experts) if (layer, e) not in self.choice.common]

    def activate(self, batch_id: str | None, turn: Turn = Turn.EXPERTS) -> None:
        """Choose the step's experts: with a per_batch set those of this batch, else always the same; or the routers."""
        routers = turn is Turn.ROUTERS
        if self.routers:
            for parameter in (*self.whole, *(owned.parameter for owned in self.rows)):
                parameter.requires_grad_(not routers)
        for owned in self.routers:
            owned.parameter.requires_grad_(routers)
            owned.active = owned.experts if routers else ()
        now = self.choice.at(batch_id)
        for layer, owned in self._layers:
            wanted = self.mode is Learn.SELECTED
            owned.active = () if routers else tuple(e for e in owned.experts if ((layer, e) in now) is wanted)

    def add_up(self, ranks: Ranks) -> None:
        """Replace the step's gradients by their sums over all processes; one without a sample adds nothing.

        Only what learns in this step is sent. Afterwards every process holds the same bits.
        """
        if ranks.size == 1:
            return
        parameters = [*self.whole, *(owned.parameter for owned in self._parts)]
        there = ranks.gather([p.grad is not None for p in parameters])
        for parameter, somewhere in zip(parameters, map(any, zip(*there, strict=True)), strict=True):
            if somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        ranks.add_up(self._gradients())

    def fingerprint(self) -> list[int]:
        """Return a number for each weight that learns, the same wherever its bits are the same."""
        return [_bits(p.detach()) for p in (*self.whole, *(owned.parameter for owned in self._parts))]

    def _gradients(self) -> list[Tensor]:
        """Return the gradients of what learns in this step."""
        grads = [local(p.grad) for p in self.whole if p.grad is not None]
        return grads + [grad for owned in self._parts for grad in owned.gradients()]

    @property
    def _parts(self) -> list[OwnedRows]:
        return [*self.rows, *self.routers]

    def clip(self, max_norm: float | None, parts: Ranks = Ranks()) -> float:  # noqa: B008  # frozen
        """Scale the step's gradients to `max_norm` if they are longer (None or 0: never); return their norm before.

        Only weights that learn in this step are measured and scaled. parts: the processes that hold parts of the
        gradients, if they are sharded.
        """
        grads = self._gradients()
        norm = float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0
        if parts.size > 1:
            norm = math.hypot(*parts.gather(norm))
        if max_norm and norm > max_norm:
            for grad in grads:
                grad.mul_(max_norm / (norm + 1e-6))
        return norm

    def optimizer(
        self,
        *,
        lr: float,
        weight_decay: float,
        router_lr: float | None = None,
        decayed: Callable[[nn.Parameter], bool] = lambda _: True,
    ) -> RowAdamW:
        """Return the AdamW that owns these weights and no others. router_lr: None: the same `lr`."""
        return RowAdamW(
            self.whole,
            self.rows,
            lr=lr,
            weight_decay=weight_decay,
            decayed=decayed,
            routers=self.routers,
            router_lr=router_lr,
        )


def check_experts(sites: Sequence[MoeSite], experts: Iterable[Expert]) -> None:
    """Raise InvalidInput if one of the experts does not exist in the model or has no weights to train."""
    by_layer: dict[int, list[MoeSite]] = {}
    for site in sites:
        by_layer.setdefault(site.spec.layer, []).append(site)
    for layer, expert in sorted(experts):
        if layer not in by_layer:
            have = ", ".join(str(number) for number in by_layer)
            raise InvalidInput(
                f"layer {layer} has no experts in this model; layers with experts: {have}.", ("experts",)
            )
        for site in by_layer[layer]:
            if not 0 <= expert < site.spec.n_experts:
                raise InvalidInput(
                    f"expert {expert} of layer {layer} does not exist; it has {site.spec.n_experts}.", ("experts",)
                )
            if expert >= site.n_with_weights:
                raise InvalidInput(
                    f"expert {expert} of layer {layer} has no weights of its own (an identity expert): leave it out.",
                    ("experts",),
                )


def _touched(sites: Sequence[MoeSite], choice: ExpertChoice, mode: Learn) -> Iterable[tuple[MoeSite, ExpertTensor]]:
    """Yield the tensors of which some experts learn and others may not."""
    layers = set() if mode is Learn.FULL else {layer for layer, _ in choice.union}
    for site in sites:
        if site.spec.layer in layers:
            for tensor in site.tensors:
                yield site, tensor


def _bits(tensor: Tensor) -> int:
    """Return the sum of a tensor's bit patterns: order does not matter to it, the last bit does."""
    return int(tensor.contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64))


def _let_learn(model: nn.Module, learning: Iterable[Tensor]) -> None:
    wanted = {id(parameter) for parameter in learning}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
