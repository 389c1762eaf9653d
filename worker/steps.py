"""What one training step saw, over all processes, and what is said when it must not be applied."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.domain.errors import ProvenanceBroken
from backend.domain.turns import Turn
from worker.examples import Collated, SampleKey
from worker.ranks import Ranks
from worker.witness import SeenSample


@dataclass(slots=True)
class StepFacts:
    """What one step saw, over all processes, gathered while it runs.

    samples, losses, seen: in the batch's order. losses: mean over each sample's answer tokens. parts: this process' own
    losses, still on the device, one tensor per forward. total: this process' part of the loss. order: where the
    gathered samples belong. turn: what the step teaches. consistency: the batch's routing loss, where it is measured.
    """

    started: float
    samples: list[SampleKey] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    n_answer_tokens: int = 0
    parts: list[Tensor] = field(default_factory=list)
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    losses: list[float] = field(default_factory=list)
    seen: list[SeenSample] = field(default_factory=list)
    loss: float = math.nan
    grad_norm: float = math.nan
    learning_rate: float = math.nan
    turn: Turn = Turn.EXPERTS
    consistency: float | None = None


def open_step(ranks: Ranks, share: Collated, *, by_place: bool) -> StepFacts:
    """Gather which samples all processes hold, in the order they have in one process.

    by_place: each holds its share of a batch in the batch's order; else the samples were dealt out one by one.
    """
    facts = StepFacts(time.perf_counter())
    shares = ranks.gather((share.samples, sum(share.answer_tokens)))
    dealt = [(turn, rank, key) for rank, (samples, _) in enumerate(shares) for turn, key in enumerate(samples)]
    facts.order = list(range(len(dealt)))
    if ranks.size > 1:  # in one process the order is what arrived: a wrong one must show
        facts.order.sort(key=lambda i: dealt[i][2].in_batch_idx if by_place else dealt[i][:2])
    facts.samples = [dealt[i][2] for i in facts.order]
    facts.n_answer_tokens = sum(n_tokens for _, n_tokens in shares)
    return facts


def check_rows(step: int, share: Collated, n_rows: int) -> None:
    """Raise ProvenanceBroken if a share's tensors have another number of rows than it names samples."""
    if share.samples and len(share.samples) != n_rows:
        raise ProvenanceBroken(
            f"Step {step}: {n_rows} rows for {len(share.samples)} samples of batch {share.samples[0].batch_idx}. "
            "The run stopped before this step was applied."
        )


def divergence(step: int, facts: StepFacts) -> str:
    """Return what is wrong with a step whose loss or gradient is not a number."""
    bad = [
        f"sample {key.in_batch_idx} of batch {key.batch_idx}"
        for key, loss in zip(facts.samples, facts.losses, strict=True)
        if not math.isfinite(loss)
    ]
    return (
        f"Step {step}: the loss is {facts.loss} and the gradient norm {facts.grad_norm} "
        f"({', '.join(bad[:5]) or 'every sample is finite by itself'}). The step was not applied; "
        "try a smaller learning rate, or float32."
    )


def replicas_differ(step: int, prints: Sequence[list[int]]) -> str | None:
    """Return what is wrong if the processes' weights have other fingerprints than the first one's, else None."""
    for rank, other in enumerate(prints):
        if other != prints[0]:
            return (
                f"After step {step}, process {rank} holds other weights than process 0: one of them computed something "
                "else. Nothing was saved after that; resume the run from the checkpoint before."
            )
    return None
