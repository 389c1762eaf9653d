"""`python -m tests.worker.crash_server MODEL HOME SEED`: trains tiny runs in forked processes and kills them.

Forking after the imports makes an attempt cheap. Every attempt trains until it ends or is killed with SIGKILL; the next
one goes on in the same folder. Prints one line of JSON: {"kills": {run: how often}, "boundaries": {run: what}}.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.worker.tiny_runs import tiny_run
from tests.worker.training_process import FileSink
from worker import checkpoints, durable, state_files
from worker.training import train

RANDOM_KILLS = 24
MOMENTS = ((checkpoints, "sha256_file"), (checkpoints, "canonical_json"), (checkpoints, "_flush"), (durable, "staging"),
           (Path, "rename"), (shutil, "rmtree"), (durable, "write_state"), (state_files, "save_file"))  # fmt: skip
"""What a checkpoint is made of: every call of each of these is a moment to die, just before it or just after."""


def attempt(model: Path, home: Path, name: str, **changes: Any) -> None:
    torch.set_num_threads(1)
    train(tiny_run(model, home / name, **changes), FileSink(home / f"{name}.jsonl", pause=0.0))


def forked(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Do the work in a process of its own; return True if it was killed. kill_after: seconds."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # of a process that ended already: harmless until it is waited for
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def dying(model: Path, home: Path, name: str, where: tuple[Any, str], call: int, after: bool, **changes: Any) -> None:
    """Train, and die with SIGKILL at the call-th use of a function."""
    module, function = where
    original, count = getattr(module, function), 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, function, deadly)
    attempt(model, home, name, **changes)


def main() -> None:
    model, home, chance = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    started = time.monotonic()
    forked(partial(attempt, model, home, "undisturbed"))
    length = time.monotonic() - started
    kills: dict[str, int] = {}
    while sum(kills.values()) < RANDOM_KILLS:
        name = f"random-{len(kills)}"
        kills[name] = 0
        while forked(partial(attempt, model, home, name), chance.uniform(0, length)):
            kills[name] += 1
    boundaries: dict[str, str] = {}
    short = {"epochs": 1, "checkpoint_every": 2}
    forked(partial(attempt, model, home, "short", **short))
    moments = [(where, call, after) for where in MOMENTS for call, after in ((1, False), (1, True), (2, False))]
    for number, (where, call, after) in enumerate(moments):
        name = f"boundary-{number}"
        if forked(partial(dying, model, home, name, where, call, after, **short)):
            boundaries[name] = f"{'after' if after else 'before'} call {call} of {where[1]}"
            forked(partial(attempt, model, home, name, **short))
    sys.stdout.write(json.dumps({"kills": kills, "boundaries": boundaries}) + "\n")


if __name__ == "__main__":
    main()
