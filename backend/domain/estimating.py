"""What a run will take, before it starts: a range of seconds from finished runs, a range of bytes from sizes.

An estimate is a range or nothing, and says what it stands on. Not covered: ETAs of running work (store/jobs.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

RUNTIME_BYTES = 0.4 * 2**30
"""What Python, torch and a tokenizer take before any weight is loaded."""
ALONE = 1.5
OTHER_PROMPTS = 2.0
OTHER_MODEL = 3.0
"""How far each way a range is widened: by one finished run alone, by prompts of another set, by another model."""
HIGHEST_BYTES_PER_WEIGHT = 4
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAMW_STATES = 2
ADAPTER_SHARE = 0.1
"""Of a matrix' weights, what its thin factors have at most in any usual rank."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Past:
    """A finished run: its seconds, and its work in the unit that is estimated (prompts, or prompts x parameters)."""

    seconds: float
    work: float


def seconds(past: Sequence[Past], work: float, *, widen: float = 1.0) -> Range | None:
    """Return how long `work` takes at the slowest and the fastest pace of these runs; None without any.

    widen: >= 1, a factor for what differs from those runs. One run alone tells no spread and is widened as well.
    """
    paces = [run.seconds / run.work for run in past if run.seconds > 0 and run.work > 0]
    if not paces:
        return None
    factor = widen * (ALONE if len(paces) == 1 else 1.0)
    return Range(min(paces) * work / factor, max(paces) * work * factor)


def reading_bytes(n_parameters: int, dtype: str) -> Range:
    """Return the memory for measuring a model. dtype: `auto` is what the model was saved in, 2 or 4 bytes a weight."""
    low, high = (BYTES_PER_WEIGHT.get(dtype, other) for other in (2, HIGHEST_BYTES_PER_WEIGHT))
    return Range(n_parameters * low + RUNTIME_BYTES, 1.3 * n_parameters * high + 2 * RUNTIME_BYTES)


def training_bytes(n_parameters: int, share: float) -> Range:
    """Return the memory for training `share` (0 to 1) of a model: weights, and for what learns gradients and AdamW.

    The low end takes half of `share`, because experts are only a part of the weights.
    """
    extra = (1 + ADAMW_STATES) * HIGHEST_BYTES_PER_WEIGHT * n_parameters
    low = 2 * n_parameters + share / 2 * extra + RUNTIME_BYTES
    return Range(low, 1.3 * (HIGHEST_BYTES_PER_WEIGHT * n_parameters + share * extra) + 2 * RUNTIME_BYTES)
