"""`python -m tests.worker.rank_process FOLDER MODEL OUT_DIR RECORDS CHANGES`: one of several processes of a tiny run.

Started by worker.launching, as worker.rank is. CHANGES: JSON, as for `tiny_run`; beside them `stop_after`, and faults:
`die` [rank, step] (SIGKILL), `raise` [rank, step], `scarce` [rank, rows] (memory for so many rows only, there).
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from backend.domain.errors import InvalidInput
from tests.worker.tiny_runs import tiny_batches, tiny_run
from tests.worker.training_process import FileSink
from worker import training
from worker.child import die_with_parent
from worker.launching import answer_rank


class Stopping(FileSink):
    def __init__(self, path: Path, stop_after: int | None) -> None:
        super().__init__(path, pause=0.0)
        self.stop_after, self.step = stop_after, 0

    def record_step(self, record: Any) -> None:
        super().record_step(record)
        self.step = record.step

    def should_stop(self) -> bool:
        return self.stop_after == self.step


def scarce(model: torch.nn.Module, rows: int) -> None:
    """Make a forward of more rows ask the allocator for more than there is."""

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if model.training and len(kwargs["input_ids"]) > rows:
            torch.empty(2**60, dtype=torch.uint8)

    model.register_forward_pre_hook(look, with_kwargs=True)


def with_faults(trainer: Any, faults: dict[str, Any]) -> None:
    rank, first = trainer.args.process_index, trainer.begin_step
    if "scarce" in faults and faults["scarce"][0] == rank:
        scarce(trainer.model, faults["scarce"][1])

    def begin_step(facts: Any) -> Any:
        here = [rank, trainer.state.global_step + 1]
        if faults.get("die") == here:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.get("raise") == here:
            raise InvalidInput(f"a fault in process {rank}")
        return first(facts)

    trainer.begin_step = begin_step


def main() -> int:
    die_with_parent()
    folder, model, out_dir, records = map(Path, sys.argv[1:5])
    changes = json.loads(sys.argv[5])
    sizes, stop_after = changes.pop("sizes", None), changes.pop("stop_after", None)
    faults = {name: changes.pop(name) for name in ("die", "raise", "scarce") if name in changes}
    if sizes:
        changes["batches"] = tiny_batches(sizes)
    torch.set_num_threads(1)
    build = training.build_trainer

    def build_faulty(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)
        with_faults(trainer, faults)
        return trainer

    training.build_trainer = build_faulty
    sink = Stopping(records, stop_after)
    return answer_rank(folder, lambda: training.train(tiny_run(model, out_dir, **changes), sink).write())


if __name__ == "__main__":
    sys.exit(main())
