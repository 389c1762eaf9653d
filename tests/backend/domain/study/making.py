"""Runs of a study, made up with known level and scatter."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.domain.study.outcomes import Arm, Outcome


def outcome(
    arm: Arm, seed: int, risk_diff: Sequence[float] | NDArray[np.float64], targets: str = "t", **figures: float | None
) -> Outcome:
    n = 4 if arm is Arm.PRESERVED else 0
    return Outcome(arm, seed, figures, np.asarray(risk_diff, dtype=np.float64), {}, 4, n, targets)


def normal_runs(n: int, *, scatter: float, shift: float = 0.0, dim: int = 64, draw: int = 0) -> list[Outcome]:
    """n seeds per arm; the shuffled arm scatters `scatter` times as much and lies `shift` higher."""
    rng = np.random.default_rng(draw)
    made = []
    for arm, size, level in ((Arm.PRESERVED, 1.0, 0.0), (Arm.SHUFFLED, scatter, shift)):
        for seed in range(n):
            made.append(outcome(arm, seed, level + size * rng.normal(size=dim), final_loss=level + size * rng.normal()))
    return made
