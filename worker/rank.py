"""One of several processes that train together: `python -m worker.rank FOLDER TRAINING JOB` (see launching.py)."""

import sys
from pathlib import Path
from typing import Any

from worker import fence, pausing
from worker.child import die_with_parent
from worker.launching import PAUSE, answer_rank, end_process


def main() -> int:
    """Train as one of several; the answer, or the error in words, goes into the folder."""
    die_with_parent()
    folder, *rest = sys.argv[1:]
    training_id, job_id = fence.put_up(rest)
    pausing.by_file(Path(folder) / PAUSE)

    def work() -> Any:
        from worker.tuning import train_together

        return train_together(training_id, job_id)

    return answer_rank(Path(folder), work)


if __name__ == "__main__":
    end_process(main())
