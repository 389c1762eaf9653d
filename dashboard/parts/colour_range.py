"""How far the colours of a risk_diff map reach: one fixed symmetric range per analysis, others on request.

Stretching every map to its own largest value would make noise look like a finding; so the choice is named on the page
and part of the address.
"""

from dataclasses import dataclass

import numpy as np

from dashboard import charts, data, fields, words
from dashboard.client import Api, Json

NAMES = {"all": "all batches together", "batches": "any single batch", "half": "half of it", "quarter": "a quarter"}


@dataclass(frozen=True, slots=True)
class Range:
    """The chosen end of the scale, in units of risk_diff, and which of NAMES it is."""

    vmax: float
    name: str

    def beyond(self, *maps: charts.Matrix | None) -> str:
        """Say how many cells lie beyond the ends and take the end colours; nothing where none does."""
        n = sum(int((np.abs(np.nan_to_num(one)) > self.vmax * (1 + 1e-6)).sum()) for one in maps if one is not None)
        return (
            f"{words.plural(n, 'cell lies', 'cells lie')} beyond ±{words.short_float(self.vmax)}, in the end colours. "
            if n
            else ""
        )


def ends(api: Api, analysis: Json, scope: str, whole: Json) -> dict[str, float]:
    """Return the ends that an analysis offers: of all its batches together, and of the batch that differs most."""
    rows = data.all_items(api, f"/analyses/{analysis['id']}/batches", data.version(analysis), scope=scope)
    largest = max([r["max_abs_risk_diff"] or 0.0 for r in rows], default=0.0)
    return {"all": charts.round_up(whole["max_abs"] or 0.0), "batches": charts.round_up(largest)}


def choose(found: dict[str, float], default: str) -> Range:
    """Show the choice (part of the address), the page's own range first; return it."""
    order = [default, *(name for name in found if name != default)]
    values = {name: found[name] for name in order}
    values |= {"half": found[default] / 2, "quarter": found[default] / 4}
    options = {name: f"±{words.short_float(value)}, {NAMES[name]}" for name, value in values.items()}
    name = fields.select("Colours reach to", "range", options, width=230, help=HELP)
    return Range(values[name], name)


HELP = (
    "The largest |risk_diff| of all batches together, or of the single batch that differs most; the same for every "
    "batch of the analysis, so that colours can be compared. A shorter range shows small differences, noise too."
)
