"""Data -> the map of one sample: where its tokens went. Pure, like charts.py."""

from collections.abc import Sequence

from dashboard.charts import Heat, Matrix, largest, round_up, site_labels
from dashboard.client import Json


def routed(shown: Matrix, counts: Matrix, sites: Sequence[Json], what: str, *, beyond: bool) -> Heat:
    """Return the map of one sample's tokens. shown: their share of every expert, or what of it lies beyond the usual.

    All arrays: [site, expert].
    """
    unit = "share − usual" if beyond else "share"
    label = f"{what}: heatmap of {unit}, {len(sites)} layers by {shown.shape[1]} experts. Arrow keys walk the cells."
    return Heat(
        z=shown.astype("<f4"),
        labels=site_labels(sites),
        vmax=round_up(largest(shown)),
        label=label,
        unit=unit,
        palette="share" if beyond else "amount",
        from_zero=not beyond,
        more=counts,
        more_words="its tokens:",
    )
