"""routing=masked: during the training forward, tokens flow through the expert set only.

While a router runs, the product that gives its [token, expert] scores is taken in float32 and every expert outside the
set gets the lowest score there is, before the router's own softmax, bias and top-k. What counts is the effect, so it is
asserted where it shows: the indices that arrive at the experts. A layer with fewer than top-k experts in the set stays
free. Not covered: routers that choose outside their own module (refused by name).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backend.domain.errors import NotSupported, RouteprintError
from backend.domain.vocabulary import Expert
from worker.masking import ExpertChoice
from worker.sites import MoeSite, Reading

PRODUCTS = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.mm,
    torch.addmm,
    torch.Tensor.matmul,
    torch.Tensor.mm,
    torch.Tensor.__matmul__,
}


class MaskNotEffective(RouteprintError):
    """Tokens reached experts outside the set although the layer is masked."""


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """masked_layers: masked in every step. free_layers: free in at least one, for want of top-k selected experts."""

    masked_layers: tuple[int, ...] = ()
    free_layers: tuple[int, ...] = ()


class MaskedRouting:
    """Masks the routers of a model for one step at a time: `with routing.step(batch_id): forward and backward`."""

    def __init__(self, sites: Sequence[MoeSite], choice: ExpertChoice) -> None:
        self.sites, self.choice = tuple(sites), choice
        for site in sites:
            if site.router is None or site.reading is not Reading.EXPERTS_INPUT:
                raise NotSupported(
                    f"masked routing needs a router module whose choice arrives at the experts; "
                    f"{type(site.block).__name__} at {site.spec.site!r} has none: use routing `free`."
                )

    def report(self, batch_ids: Iterable[str]) -> RoutingReport:
        """Say which layers are masked over these batches and which stay free."""
        sets = [self.choice.at(batch_id) for batch_id in batch_ids] if self.choice.per_batch else [self.choice.at(None)]
        free = {site.spec.layer for chosen in sets for site in self.sites if not _allowed(site, chosen)}
        masked = {site.spec.layer for site in self.sites} - free
        return RoutingReport(tuple(sorted(masked)), tuple(sorted(free)))

    @contextmanager
    def step(self, batch_id: str | None) -> Iterator[None]:
        """Mask every layer that holds at least top-k experts of the step's set.

        Raises MaskNotEffective or NotSupported if a masked layer's tokens went elsewhere.
        """
        chosen = self.choice.at(batch_id)
        with ExitStack() as stack:
            masks = []
            for site in self.sites:
                if allowed := _allowed(site, chosen):
                    masks.append(stack.enter_context(_masked_site(site, allowed)))
            yield
            for mask in masks:
                mask.check()


def _allowed(site: MoeSite, chosen: frozenset[Expert]) -> list[int]:
    """Return the experts a site's tokens may go to; empty where they are too few and the site stays free."""
    allowed = sorted(expert for layer, expert in chosen if layer == site.spec.layer)
    return allowed if len(allowed) >= site.spec.top_k else []


@contextmanager
def _masked_site(site: MoeSite, allowed: Sequence[int]) -> Iterator["_SiteMask"]:
    assert site.router is not None
    mask = _SiteMask(site, allowed)
    router, original = site.router, site.router.forward
    watch = site.experts.register_forward_pre_hook(mask.watch, with_kwargs=True)
    router.forward = mask.around(original)
    try:
        yield mask
    finally:
        watch.remove()
        del router.forward  # the instance attribute only: the class's own forward shows again


class _SiteMask:
    """One masked site during one step."""

    def __init__(self, site: MoeSite, allowed: Sequence[int]) -> None:
        self.site = site
        self.excluded = torch.ones(site.spec.n_experts, dtype=torch.bool)
        self.excluded[list(allowed)] = False
        self.strays: Tensor | None = None
        """[expert] how many times an excluded expert was chosen; None: nothing was seen at the experts."""

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the router's forward with its scores masked."""

        def masked(*args: Any, **kwargs: Any) -> Any:
            with _MaskScores(self.excluded) as mode:
                output = forward(*args, **kwargs)
            if mode.native != torch.float32:  # only the choice had to be made in float32: give back the usual types
                with torch.no_grad():
                    output = _typed_as(output, forward(*args, **kwargs))
            if not mode.found:
                raise NotSupported(
                    f"masked routing cannot reach the scores of the router {type(self.site.router).__name__} "
                    f"at {self.site.spec.site!r}: use routing `free`."
                )
            return output

        return masked

    def watch(self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count, where the tokens arrive, those that chose an excluded expert. No synchronisation with the device."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and not value.is_floating_point() and value.dim() >= 2:
                times = torch.bincount(value.reshape(-1), minlength=len(self.excluded))[: len(self.excluded)]
                strays = times * self.excluded.to(value.device)
                self.strays = strays if self.strays is None else self.strays + strays
                return

    def check(self) -> None:
        """Raise unless every token of the step went to the set."""
        layer = self.site.spec.layer
        if self.strays is None:
            raise NotSupported(f"masked routing cannot be checked in layer {layer}: no expert index arrives there.")
        wrong = {e: int(n) for e, n in enumerate(self.strays.tolist()) if n}
        if wrong:
            raise MaskNotEffective(
                f"layer {layer} is masked to {int((~self.excluded).sum())} experts, but tokens went to others "
                f"({', '.join(f'expert {e}: {n}' for e, n in wrong.items())}); its router "
                f"{type(self.site.router).__name__} cannot be masked by its scores: use routing `free`."
            )


class _MaskScores(TorchFunctionMode):
    """Inside: the first matrix product that ends in [.., expert] is taken in float32 and masked."""

    def __init__(self, excluded: Tensor) -> None:
        super().__init__()
        self.excluded = excluded
        self.found = False
        self.native = torch.float32

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.found or func not in PRODUCTS or output.shape[-1:] != self.excluded.shape:
            return output
        self.found, self.native = True, output.dtype
        if output.dtype != torch.float32:
            output = func(*map(_widen, args), **{name: _widen(value) for name, value in (kwargs or {}).items()})
        return output.masked_fill(self.excluded.to(output.device), torch.finfo(self.native).min)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _typed_as(output: Any, usual: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_typed_as(mine, theirs) for mine, theirs in zip(output, usual, strict=True))
    return output.to(usual.dtype) if isinstance(output, Tensor) else output
