"""Expert steering: for as long as a block lasts, some experts get no token at all, or every token.

Two things are changed, both inside the router's own forward. Its scores: a deactivated expert gets the lowest there is,
an activated one a step above the token's best, so that routing weights follow. And its choice: whatever
corrections or groups come in between, top-k is taken of the scores it is really given, in float32, with the set at −∞
or +∞. What is not steered stays bit for bit what it was. What counts is the effect, so it is counted where the tokens
arrive (`check_effect`).
Not covered: sites without a router module, routers that look experts up in a table (refused by name).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backend.domain.errors import NotSupported, RouteprintError
from backend.domain.evaluation.interventions import Intervention, by_layer, check_deactivate
from backend.domain.vocabulary import Expert
from worker.capture.padding import pad_rows, segments_of
from worker.capture.tap import RoutingTap
from worker.masked_routing import PRODUCTS
from worker.models import LoadedModel
from worker.prompts import pad_id
from worker.sites import MoeSite

_STEP = 2.0**-6
"""How far above the token's best score an activated expert is put: the least that no rounding to bfloat16 loses."""

_CHOICES = {torch.topk, torch.Tensor.topk}


class SteeringNotEffective(RouteprintError):
    """Tokens went where they should not, or did not go where they should."""


@contextmanager
def steered(sites: Sequence[MoeSite], experts: Sequence[Expert], intervention: Intervention) -> Iterator[None]:
    """Steer the routers of the layers that hold experts of the set; all others run as they are.

    Raises NotSupported, naming the router, where its scores cannot be reached; where fewer than top-k experts would be
    left, or more than top-k were to be activated, naming the layer.
    """
    wanted = by_layer(experts)
    _check(sites, experts, intervention)
    with ExitStack() as stack:
        for site in sites:
            if own := wanted.get(site.spec.layer):
                stack.enter_context(_steered_site(site, own, intervention))
        yield


def _check(sites: Sequence[MoeSite], experts: Sequence[Expert], intervention: Intervention) -> None:
    if intervention is Intervention.DEACTIVATE:
        check_deactivate(experts, [site.spec for site in sites])
    own = by_layer(experts)
    for site in sites:
        chosen = own.get(site.spec.layer, [])
        if chosen and site.router is None:
            raise NotSupported(
                f"{type(site.block).__name__} at {site.spec.site!r} has no router module of its own, so its experts "
                "cannot be steered."
            )
        if intervention is Intervention.ACTIVATE and len(chosen) > site.spec.top_k:
            raise NotSupported(
                f"Layer {site.spec.layer} sends a token to {site.spec.top_k} experts, so {len(chosen)} cannot all be "
                "active. Choose fewer."
            )


@contextmanager
def _steered_site(site: MoeSite, chosen: Sequence[int], intervention: Intervention) -> Iterator[None]:
    assert site.router is not None
    router, original = site.router, site.router.forward
    mask = torch.zeros(site.spec.n_experts, dtype=torch.bool)
    mask[list(chosen)] = True

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _Steer(mask, activate=intervention is Intervention.ACTIVATE) as mode:
            output = original(*args, **kwargs)
        if not (mode.scored or mode.chosen):
            raise NotSupported(
                f"The router {type(router).__name__} at {site.spec.site!r} chooses experts without scores that can be "
                "reached, so they cannot be steered."
            )
        return output

    router.forward = forward
    try:
        yield
    finally:
        del router.forward  # the instance attribute only: the class's own forward shows again


class _Steer(TorchFunctionMode):
    """Inside: the first product that ends in [.., expert] and every top-k over all experts are steered."""

    def __init__(self, mask: Tensor, *, activate: bool) -> None:
        super().__init__()
        self.mask, self.activate = mask, activate
        self.scored = self.chosen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CHOICES:
            return self._choose(func, args, kwargs)
        output = func(*args, **kwargs)
        if self.scored or func not in PRODUCTS or output.shape[-1:] != self.mask.shape:
            return output
        self.scored = True
        mask = self.mask.to(output.device)
        if self.activate:
            best = output.amax(dim=-1, keepdim=True)
            return torch.where(mask, best + _STEP * best.abs().clamp(min=1), output)
        return output.masked_fill(mask, torch.finfo(output.dtype).min)

    def _choose(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take top-k with the set out, or in. Over whole rows the values stay the scores that were given; where the
        experts are cut into groups, the values rank the groups and are steered too.
        """
        scores, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        more = {name: value for name, value in kwargs.items() if name != "input"}
        n = len(self.mask)
        whole = scores.shape[-1] == n
        if not whole and (scores.dim() < 3 or scores.shape[-2] * scores.shape[-1] != n):
            return func(*args, **kwargs)
        self.chosen = self.chosen or whole
        end = float("inf") if self.activate else float("-inf")
        flat = scores.float().reshape(-1, n).masked_fill(self.mask.to(scores.device), end)
        found = func(flat.reshape(scores.shape), *rest, **more)
        values = scores.gather(-1, found.indices) if whole else found.values.to(scores.dtype)
        return torch.return_types.topk((values, found.indices))


# --- the effect


@dataclass(frozen=True, slots=True)
class Effect:
    """What a probe pass counted. to_the_set: choices that fell on the set's experts, summed over its sites.

    of: choices in all, over all sites.
    """

    tokens: int
    to_the_set: int
    of: int

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON."""
        return asdict(self)


def probe(loaded: LoadedModel, prompts: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int64], int]:
    """Count what every expert receives in one pass: (counts [site, expert], tokens). Padding is not counted."""
    segments = [segments_of(len(ids), len(ids)) for ids in prompts]
    rectangle = pad_rows(prompts, segments, pad_id(loaded.tokenizer), loaded.device)
    with torch.no_grad(), RoutingTap(loaded.sites) as tap:
        tapped = tap.run(
            lambda: loaded.model(input_ids=rectangle.ids, attention_mask=rectangle.mask, use_cache=False),
            rectangle.segments,
        )
    counts = tapped.counts.sum(dim=(0, 1)).cpu().numpy().astype(np.int64)
    return counts, sum(len(ids) for ids in prompts)


def effect_of(sites: Sequence[MoeSite], counts: NDArray[np.int64], tokens: int, experts: Sequence[Expert]) -> Effect:
    """Return how many choices of a probe fell on a set."""
    chosen = set(experts)
    cells = [(i, e) for i, s in enumerate(sites) for e in range(s.spec.n_experts) if (s.spec.layer, e) in chosen]
    return Effect(tokens, int(sum(counts[cell] for cell in cells)), int(counts.sum()))


def check_effect(
    loaded: LoadedModel, prompts: Sequence[NDArray[np.int32]], experts: Sequence[Expert], intervention: Intervention
) -> Effect:
    """Run a probe pass, inside the block that steers, and return what the set received.

    Raises SteeringNotEffective, naming layer and expert, unless a deactivated expert received nothing and an activated
    one every token.
    """
    counts, tokens = probe(loaded, prompts)
    for i, site in enumerate(loaded.sites):
        for expert in by_layer(experts).get(site.spec.layer, []):
            wanted = tokens if intervention is Intervention.ACTIVATE else 0
            if counts[i, expert] != wanted:
                raise SteeringNotEffective(
                    f"Expert {expert} of layer {site.spec.layer} should have received {wanted} of {tokens} tokens and "
                    f"received {counts[i, expert]}: the router {type(site.router).__name__} cannot be steered so. "
                    "A smaller set may be possible."
                )
    return effect_of(loaded.sites, counts, tokens, experts)
