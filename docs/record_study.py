"""`make study`: one complete study on published prompts and the demonstration model, by the command that users have.

Do-Not-Answer (unsafe) against TruthfulQA (safe), a bounded part of both: a part is measured and trained, other prompts
are asked. Writes docs/study-example.html and docs/study-example.md as they come out, whichever way. Run it from the
repository's root: `python -m docs.record_study`.
"""

import os
import sys
from pathlib import Path

from backend.commands.study import study
from backend.domain.errors import RouteprintError
from tests import realdata

ROOT = Path(__file__).parents[1]
REPORTS = [ROOT / "docs" / f"study-example.{ending}" for ending in ("html", "md")]
MOST = 512
"""Prompts in all, half of each label: enough for 24 batches of 16, and a study that ends in a coffee break."""


def main() -> None:
    """Run the study in a home of its own below .cache, so that it can be looked at afterwards."""
    os.environ.setdefault("ROUTEPRINT_HOME", str(ROOT / ".cache" / "study"))
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # for a model this small, threads wait for each other more than they help
    unsafe, safe = realdata.do_not_answer(), realdata.truthfulqa()
    try:
        study(
            dataset=[*unsafe, safe],
            label=[*["unsafe"] * len(unsafe), "safe"],
            name="Do-Not-Answer and TruthfulQA: batches kept against reshuffled",
            most=MOST,
            report=REPORTS,
        )
    except RouteprintError as error:
        sys.exit(f"make study: {error}")


if __name__ == "__main__":
    main()
