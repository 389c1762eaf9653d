"""Routing consistency: how far the routing of an unsafe prompt lies from that of its safe counterpart.

    q_l(x)  mean over the prompt tokens of x of softmax(router scores of MoE site l), padding and answer left out
    loss = mean over pairs (s, u) and sites l of KL( q_l(s) || q_l(u) ),   in nats, in float32

The safe prompt is the anchor: no gradient flows through q(s). Two prompts need not have the same length, since each is
a mean over its own tokens. The scores are taken where a router makes them, before its bias, groups and top-k.
Not covered: when routers learn (router_steps.py), routers that hide their scores (abilities.py).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backend.domain.errors import NotSupported
from backend.domain.turns import Pair
from worker.masked_routing import PRODUCTS
from worker.sites import MoeSite

Routing = tuple[Tensor, ...]
"""Of one sample, for each site: [expert] logarithm of its mean routing distribution, float32."""


class RouterScores:
    """Keeps the scores of every router of a model while a forward runs."""

    def __init__(self, sites: Sequence[MoeSite]) -> None:
        self.sites = tuple(sites)
        self._found: dict[int, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the next forward's routers score. Masks and steering may be at work inside: what comes is raw."""
        self._found = {}
        with ExitStack() as stack:
            for number, site in enumerate(self.sites):
                stack.enter_context(self._watched(number, site))
            yield

    @contextmanager
    def _watched(self, number: int, site: MoeSite) -> Iterator[None]:
        router = site.router
        assert router is not None
        before: Callable[..., Any] | None = vars(router).get("forward")
        inner = router.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with _KeepScores(site.spec.n_experts) as mode:
                output = inner(*args, **kwargs)
            if mode.scores is not None:
                self._found[number] = mode.scores
            return output

        router.forward = forward
        try:
            yield
        finally:
            if before is None:
                del router.forward  # the instance attribute only: the class's own forward shows again
            else:
                router.forward = before

    def routing(self, counted: Tensor) -> list[Routing]:
        """Return each row's mean distributions. counted: bool [row, token], the tokens that count.

        Raises NotSupported, naming the router, where it gave no score for every token and expert.
        """
        rows: list[list[Tensor]] = [[] for _ in counted]
        for number, site in enumerate(self.sites):
            shape = (*counted.shape, site.spec.n_experts)
            scores = self._found.pop(number, None)
            if scores is None or scores.numel() != math.prod(shape):
                raise NotSupported(
                    f"the router {type(site.router).__name__} at {site.spec.site!r} hides its scores, so its routing "
                    "cannot be compared: leave routers null."
                )
            for own, part, mask in zip(rows, scores.reshape(shape), counted, strict=True):
                own.append(mean_log_distribution(part[mask]))
        return [tuple(own) for own in rows]


class _KeepScores(TorchFunctionMode):
    """Inside: the first matrix product that ends in [.., expert] is kept."""

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.scores: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.scores is None and func in PRODUCTS and output.shape[-1:] == (self.n_experts,):
            self.scores = output
        return output


def mean_log_distribution(scores: Tensor) -> Tensor:
    """Return [expert] ln of the mean over tokens of softmax(scores [token, expert]), in float32."""
    return torch.logsumexp(torch.log_softmax(scores.float(), dim=-1), dim=0) - math.log(len(scores))


def divergence(safe: Routing, unsafe: Routing) -> Tensor:
    """Return the mean over sites of KL(safe || unsafe), in nats; no gradient flows through `safe`."""
    terms = [
        nn.functional.kl_div(other, anchor.detach().to(other.device), reduction="sum", log_target=True)
        for anchor, other in zip(safe, unsafe, strict=True)
    ]
    return torch.stack(terms).mean()


def consistency(pairs: Iterable[Pair], routing: Mapping[int, Routing], only: Iterable[int] | None = None) -> Tensor:
    """Return a batch's loss, or that part of it whose unsafe samples are among `only`. routing: by in_batch_idx."""
    everyone = list(pairs)
    wanted = None if only is None else set(only)
    terms = [divergence(routing[s], routing[u]) for s, u in everyone if wanted is None or u in wanted]
    return torch.stack(terms).sum() / len(everyone) if terms else torch.zeros(())
