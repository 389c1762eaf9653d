"""Simulated training runs: losses that fall as the model learns, with or without a feature that drives the fall."""

import numpy as np

from backend.domain.explanation.visits import Visit, Visits, visits_of


def run(seed: int, n: int = 40, epochs: int = 3, *, drive: float = 0.0) -> tuple[Visits, dict[str, np.ndarray]]:
    """Return a run and its batches' features.

    Every batch has its own difficulty; losses fall with the number of steps done; `set_load` alone makes a batch's own
    loss fall further (drive = 0: nothing does). `prompt_tokens` goes with the difficulty, `answer_tokens` with nothing.
    """
    rng = np.random.default_rng(seed)
    difficulty, load = rng.lognormal(0, 0.5, n), rng.random(n)
    visits, step = [], 0
    for epoch in range(epochs):
        for batch in rng.permutation(n).tolist():
            step += 1
            own = 1 - drive * load[batch] * epoch / max(1, epochs - 1)
            noise = np.exp(0.05 * rng.normal()) if epoch else 1.0
            loss = difficulty[batch] * (0.4 + np.exp(-step / n)) * own * noise
            visits.append(Visit(batch, epoch, step, float(loss)))
    features = {
        "set_load": load,
        "prompt_tokens": difficulty + 0.3 * rng.normal(size=n),
        "answer_tokens": rng.normal(size=n),
        "max_abs_risk_diff": rng.random(n),
        "share_unsafe": np.full(n, 0.5),
    }
    return visits_of(range(n), visits), features
