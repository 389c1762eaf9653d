"""`python -m tests.worker.rank_process FOLDER HOME RUNS`: one of several processes that train tiny runs, one by one.

Started by worker.launching, as worker.rank is. RUNS: JSON, {name: changes for `tiny_run`}; beside those `model`,
`sizes`, `stop_after`, and faults: `die` [rank, step] (SIGKILL), `raise` [rank, step], `scarce` [rank, rows] (memory
there for so many rows only), `forged` [rank] (a prompt changed there), `swap` and `drop` [rank, batch_idx] (its sampler
swaps two samples of that batch, its collator drops one). A run trains in HOME/NAME and records into
HOME/NAME.jsonl; one that is not its analysis batch answers {"broken": words}.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from backend.domain.errors import InvalidInput, ProvenanceBroken
from tests.worker.tiny_runs import dropping, scarce, swapping, tiny_batches, tiny_run
from tests.worker.training_process import FileSink
from worker import training
from worker.child import die_with_parent
from worker.launching import answer_rank, end_process

FAULTS = ("die", "raise", "scarce", "forged", "swap", "drop")


class Stopping(FileSink):
    def __init__(self, path: Path, stop_after: int | None) -> None:
        super().__init__(path, pause=0.0)
        self.stop_after, self.step = stop_after, 0

    def record_step(self, record: Any) -> None:
        super().record_step(record)
        self.step = record.step

    def should_stop(self) -> bool:
        return self.stop_after == self.step


def with_faults(trainer: Any, faults: dict[str, Any]) -> None:
    rank, first = trainer.args.process_index, trainer.begin_step
    if "scarce" in faults and faults["scarce"][0] == rank:
        scarce(trainer.model, faults["scarce"][1])

    collate = trainer.data_collator

    def forged(rows: Any) -> Any:
        batch = collate(rows)
        batch["input_ids"][0, 0] += len(rows) > 0
        return batch

    if faults.get("forged") == [rank]:
        trainer.data_collator = forged
    if faults.get("drop", [None])[0] == rank:
        trainer.data_collator = dropping(collate, faults["drop"][1])
    if faults.get("swap", [None])[0] == rank:
        swapping(trainer, faults["swap"][1])

    def begin_step(facts: Any) -> Any:
        here = [rank, trainer.state.global_step + 1]
        if faults.get("die") == here:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.get("raise") == here:
            raise InvalidInput(f"a fault in process {rank}")
        return first(facts)

    trainer.begin_step = begin_step


def train_one(home: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    faults = {key: changes.pop(key) for key in FAULTS if key in changes}
    model, stop_after = changes.pop("model"), changes.pop("stop_after", None)
    if sizes := changes.pop("sizes", None):
        changes["batches"] = tiny_batches(sizes)
    build = training.build_trainer

    def build_faulty(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)
        with_faults(trainer, faults)
        return trainer

    training.build_trainer = build_faulty
    try:
        sink = Stopping(home / f"{name}.jsonl", stop_after)
        return training.train(tiny_run(Path(model), home / name, **changes), sink).write()
    except ProvenanceBroken as error:
        return {"broken": str(error)}
    finally:
        training.build_trainer = build


def main() -> int:
    die_with_parent()
    folder, home, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    sys.stderr.write(f"process {os.environ['RANK']} has something to say\n")
    return answer_rank(folder, lambda: {name: train_one(home, name, changes) for name, changes in runs.items()})


if __name__ == "__main__":
    end_process(main())
