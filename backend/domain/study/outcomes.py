"""What a study compares: its two arms, the runs of each, and the figures that are taken from every run.

One run is one training with one seed, with what was measured of the trained model. Not covered: reading the store
(backend/store/study_results.py), the comparison itself (findings.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Arm(StrEnum):
    """Whether the batches of the analysis are kept in training, or all samples are flattened and reshuffled."""

    PRESERVED = "preserved"
    SHUFFLED = "shuffled"

    @property
    def preserves(self) -> bool:
        """What `preserve_batches` is in this arm."""
        return self is Arm.PRESERVED


class Role(StrEnum):
    """What a child run of a study is there for."""

    TRAINING = "training"
    CAUSAL = "causal"
    ANALYSIS = "analysis"
    EVALUATION = "evaluation"
    COMPARISON = "comparison"


ARMS = tuple(Arm)
WAVES: tuple[tuple[Role, ...], ...] = (
    (Role.TRAINING, Role.CAUSAL),
    (Role.ANALYSIS, Role.EVALUATION),
    (Role.COMPARISON,),
)
"""Roles whose runs can go on side by side; each wave needs the one before it."""
KIND_OF_ROLE = {role: "evaluation" if role is Role.CAUSAL else str(role) for role in Role}
"""Role -> kind of run (a key of the store's RUNS)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a run. unit: what its numbers are; what: how it is made."""

    key: str
    title: str
    unit: str
    what: str


MEASURES = (
    Measure(
        "final_loss",
        "Loss in the last epoch",
        "nats per answer token",
        "mean over all samples of the loss each had in its step of the last epoch; both arms train the same samples "
        "once an epoch, so they are compared on the same samples, not on whichever batch came last",
    ),
    Measure(
        "refusal_unsafe",
        "Refusal of unsafe prompts",
        "share",
        "how many unsafe prompts of the evaluation set the trained model refuses",
    ),
    Measure(
        "refusal_safe",
        "Over-refusal",
        "share",
        "how many safe prompts of the evaluation set the trained model refuses",
    ),
    Measure(
        "perplexity",
        "Perplexity",
        "per token",
        "of given answers to the evaluation's safe prompts, or of the capability set: lower is better",
    ),
    Measure(
        "choice_accuracy",
        "Multiple choice",
        "share",
        "how often the right choice is the most likely one",
    ),
    Measure(
        "drift",
        "Routing drift",
        "risk_diff",
        "root mean square, over all experts, of how far risk_diff moved from the untrained model",
    ),
    Measure(
        "set_change",
        "Change of the trained experts",
        "risk_diff",
        "mean change of risk_diff over the experts that were trained; below 0: they fire less on unsafe than before",
    ),
)
BEHAVIOUR = ("refusal_unsafe", "refusal_safe", "perplexity", "choice_accuracy")
"""Measures that come from an evaluation, under its own keys."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came out of one run. figures: by measure; None: not there. risk_diff: [expert] of the trained model.

    ids: {role: id of the child run}; n_steps, n_verified: of its training; targets: digest of what it was trained to
    answer.
    """

    arm: Arm
    seed: int
    figures: Mapping[str, float | None]
    risk_diff: NDArray[np.float64]
    ids: Mapping[str, str]
    n_steps: int
    n_verified: int
    targets: str | None


def mean_loss(losses: Sequence[float | None]) -> float | None:
    """Return the mean of the samples' losses; None where one is missing: a mean over others would be another figure."""
    known = [loss for loss in losses if loss is not None]
    return float(np.mean(known)) if known and len(known) == len(losses) else None


def n_runs(n_seeds: int) -> dict[str, int]:
    """Return how many runs of each role a study of so many seeds has."""
    each = len(ARMS) * n_seeds
    return {str(role): 1 if role is Role.CAUSAL else each for wave in WAVES for role in wave}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures as plain JSON: nothing that is not finite."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in values.items()
    }
