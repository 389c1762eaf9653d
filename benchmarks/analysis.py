"""The analysis part: capture, what is stored, what is read over REST, and the statistics of one level.

    make bench BENCH=analysis

Its pieces can run alone: `python -m benchmarks.report capture --quick`. Not covered: training, the dashboard, several
workers, the calibration of the statistics (benchmarks/calibration.py writes its own page).
"""

from typing import Any

INCLUDES = ("capture", "storage", "rest", "permutation", "importing")


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """Return no rows of its own: all of them come from the pieces above."""
    del quick
    return []
