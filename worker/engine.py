"""The child process: `python -m worker.engine [FENCE] STAGE ARGS`. Does one stage, answers, ends.

Stages: scan · measure ANALYSIS FIRST STOP JOB · training TRAINING JOB · statistics STATISTICS JOB ·
comparison COMPARISON JOB · context CONTEXT JOB · evaluation EVALUATION JOB · study STUDY JOB.
A stage loads torch if it needs it. Started by worker/child.py only.
"""

import os
import sys
import traceback
from pkgutil import resolve_name

from backend.domain.errors import RouteprintError
from backend.domain.jobs import QUEUE_CPU, WORKFLOWS
from backend.settings import get_settings
from backend.store.engine import is_away, is_full
from worker import fence
from worker.child import answer, die_with_parent
from worker.pausing import Paused
from worker.space import no_space

RUNS = {
    "training": "worker.tuning:run_training",
    "statistics": "worker.statistics:run_statistics",
    "comparison": "worker.comparing:run_comparison",
    "context": "worker.contexts:run_context",
    "evaluation": "worker.evaluating:run_evaluation",
    "study": "worker.studying:conclude",
}
"""Stages of runs: what takes (id, job id). Found by name when needed, so that a stage loads only what it uses."""


def run_stage(stage: str, args: list[str]) -> object:
    """Run the named stage and return its (small, JSON) result."""
    if stage == "scan":
        from worker.scanning import probe, scan

        return probe() | {"models": scan()}
    if stage == "measure":
        from worker.measuring import measure_shard

        return measure_shard(args[0], int(args[1]), int(args[2]), args[3])
    if stage in RUNS:
        if WORKFLOWS[stage][1] == QUEUE_CPU:
            _take_half_the_cores()
        return resolve_name(RUNS[stage])(args[0], args[1])
    raise ValueError(f"unknown stage {stage!r}")


def _take_half_the_cores() -> None:
    """Two stages without a model may run side by side, beside one with a model. Works before NumPy is loaded only."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))


def main() -> int:
    """Run one stage; errors meant for users go back as their message, all others with their traceback."""
    die_with_parent()
    try:
        stage, *args = fence.put_up(sys.argv[1:])
        answer(result=run_stage(stage, args))
    except Paused:
        answer(paused=True)
    except Exception as error:
        if is_full(error):
            answer(error=no_space(get_settings()))
            return 1
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    if isinstance(error, RouteprintError):
        answer(error=str(error))
    else:
        answer(error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}", away=is_away(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
