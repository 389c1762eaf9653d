"""What the parts of the statistics found, in short, as plain JSON. Not covered: computing it (examination.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.bootstrap import Intervals
from backend.domain.statistics.context import Load
from backend.domain.statistics.design import Scheme
from backend.domain.statistics.permutation import PermutationTest
from backend.domain.vocabulary import Site

_DESIGN = ("reason", "unit_name", "n_units", "n_units_safe", "n_units_unsafe", "n_units_both", "n_fixed")
_TEST = ("exact", "smallest_p", "n_arrangements", "alpha", "critical_t", "n_tested")


def of_test(test: PermutationTest) -> dict[str, Any]:
    """Return the design, how the test was done, and how many experts it calls."""
    design = {"scheme": str(test.design.scheme)} | {name: getattr(test.design, name) for name in _DESIGN}
    return {"design": design} | {name: getattr(test, name) for name in _TEST} | _called(test)


def _called(test: PermutationTest) -> dict[str, int]:
    called = test.p_max_t <= test.alpha  # NaN is never called
    return {
        "n_significant": int(called.sum()),
        "n_significant_unsafe": int((called & (test.difference > 0)).sum()),
        "n_significant_safe": int((called & (test.difference < 0)).sum()),
        "n_q05": int((test.q <= 0.05).sum()),
    }


def not_tested(reason: str, level: float, alpha: float) -> dict[str, Any]:
    """Return the same where there is nothing to compare at all."""
    design = {"scheme": str(Scheme.NOT_TESTABLE), "unit_name": "prompt"} | dict.fromkeys(_DESIGN[2:], 0)
    counts = dict.fromkeys(("n_significant", "n_significant_unsafe", "n_significant_safe", "n_q05", "n_tested"), 0)
    test: dict[str, Any] = {"exact": False, "n_arrangements": 0, "smallest_p": None, "alpha": alpha, "critical_t": None}
    return {
        "design": design | {"reason": f"Not testable: {reason[:1].lower()}{reason[1:]}"},
        "intervals": {"level": level, "n_resamples": 0, "unit_name": "prompt", "n_units": 0, "reason": reason},
        "stability": {"rule": "", "reason": reason},
        "baselines": {"reason": reason},
    } | (test | counts)


def of_intervals(intervals: Intervals) -> dict[str, Any]:
    """Return what the intervals are, and how many could be given."""
    names = ("level", "n_resamples", "unit_name", "n_units", "reason")
    n_given = int(np.isfinite(intervals.low).sum())
    return {name: getattr(intervals, name) for name in names} | {"n_given": n_given}


def of_load(load: Load, sites: Sequence[Site]) -> dict[str, Any]:
    """Return how evenly every site spreads its tokens, and the experts that no token reached."""
    layers = [
        {"layer": site.layer, "site": site.site, "entropy": entropy, "effective_experts": effective}
        for site, entropy, effective in zip(sites, load.entropy.tolist(), load.effective_experts.tolist(), strict=True)
    ]
    return {"reason": "", "n_dead": len(load.dead), "dead": [list(e) for e in load.dead[:100]], "layers": layers}


def figures_of(
    tables: Mapping[str, NDArray[np.float64] | None], names: Sequence[str], sites: Sequence[Site]
) -> NDArray[np.float64]:
    """Return [figure, site, expert]; NaN where a table is missing, or a site has no such expert."""
    sizes = np.array([site.n_experts for site in sites])
    exists = np.arange(sizes.max()) < sizes[:, None]
    figures = np.full((len(names), *exists.shape), np.nan)
    for place, name in enumerate(names):
        if (table := tables.get(name)) is not None:
            figures[place] = np.where(exists & np.isfinite(table), table, np.nan)  # one NaN, not those of arithmetic
    return figures


def plain(value: Any) -> Any:
    """Return JSON without NaN (null instead), arrays or dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
