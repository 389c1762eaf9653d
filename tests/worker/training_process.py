"""`python -m tests.worker.training_process MODEL OUT_DIR RECORDS`: a training in a process of its own, to be killed.

Every record is appended to a file and flushed before the run goes on, and every step waits a moment.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from tests.worker.tiny_runs import tiny_run
from worker.runs import StepRecord
from worker.training import train


class FileSink:
    def __init__(self, path: Path, pause: float = 0.1) -> None:
        self.path, self.pause = path, pause

    def record_step(self, record: StepRecord) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(record)) + "\n")
        time.sleep(self.pause)

    def should_stop(self) -> bool:
        return False

    def log(self, message: str) -> None:
        sys.stdout.write(message + "\n")

    def note(self, kind: str, message: str) -> None:
        with self.path.with_suffix(".notes").open("a") as file:
            file.write(f"{kind}: {message}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, out_dir, records = map(Path, sys.argv[1:])
    train(tiny_run(model, out_dir), FileSink(records))
