"""How large a study is before it is started, and how far it is while it runs.

Work is counted in prompts through the model, which is rough: its use is to weigh a training against an evaluation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.domain.study.outcomes import ARMS, Role, n_runs

_BACKWARD = 3.0
"""A training step costs about three forward passes over its samples."""
_TOKEN = 0.1
"""Generating one token costs about this part of a prompt's forward pass."""


def estimate(
    *, n_seeds: int, n_samples: int, n_steps: int, batch_size: int, n_arms: int, n_prompts: int, max_new_tokens: int
) -> dict[str, Any]:
    """Return what a study will do: runs by role, training steps, batches' samples, answers, and the work of each role.

    n_samples: of the plan; n_steps: of one training; n_arms: of the causal check; n_prompts: that every arm is asked.
    """
    runs = n_runs(n_seeds)
    answer = 1 + _TOKEN * max_new_tokens
    work = {
        str(Role.TRAINING): _BACKWARD * n_steps * batch_size,
        str(Role.ANALYSIS): float(n_samples),
        str(Role.EVALUATION): n_prompts * answer,
        str(Role.CAUSAL): n_arms * n_prompts * answer,
        str(Role.COMPARISON): 0.0,
    }
    each = len(ARMS) * n_seeds
    return {
        "runs": runs,
        "n_runs": sum(runs.values()),
        "n_steps": each * n_steps,
        "n_measured": each * n_samples,
        "n_answers": (each + n_arms) * n_prompts,
        "work": work,
        "smallest_p_level": 2 / 2**n_seeds if n_seeds > 1 else None,
    }


@dataclass(frozen=True, slots=True)
class Part:
    """How far one child run is. share: 0 to 1; before: the share of it that was done when the study was (re)started."""

    role: str
    share: float
    before: float


def eta_seconds(parts: Iterable[Part], work: Mapping[str, float], elapsed: float) -> float | None:
    """Return the seconds that the rest takes if it goes as since the start; None before anything is done."""
    parts = list(parts)
    total = sum(work[part.role] for part in parts)
    done = sum(work[part.role] * part.share for part in parts)
    new = done - sum(work[part.role] * part.before for part in parts)
    if not total or new <= 0.01 * total:
        return None
    return round(max(elapsed, 0.0) / new * (total - done), 1)
