"""Starts several processes that train together, with torchrun, as on any machine with several GPUs.

    worker -> stage (worker.engine) -> this file, running torchrun -> N processes

Each of them ends when the one before it ends, however it ends: all hold the same standard input, and the other end of
it lives in the stage. Lines that the processes print go to the job's log, with their rank in front. What they return,
and what went wrong, they leave as files in a folder: a killed process must not take the reason with it.
Not covered: several machines; what the processes do (rank.py).
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backend.domain.errors import InvalidInput, RouteprintError
from worker import pausing
from worker.child import die_with_parent

_LAUNCHER = "launcher.json"
PAUSE = "pause"
"""File in the folder of answers: the processes end after the step in hand."""
_LOOK_SECONDS = 0.5


class ProcessesFailed(RouteprintError):
    """Processes that train together failed. `str()` is the first one's own message, or how it ended."""


def count_processes(wanted: int | None, device: str) -> int:
    """Return how many processes train on this worker. wanted: None for one per GPU that it sees, one on a CPU.

    Raises InvalidInput, naming the field, for more than there are GPUs.
    """
    import torch

    if device == "cpu":
        return wanted or 1
    there = torch.cuda.device_count() if device == "cuda" else 1
    if wanted is not None and wanted > there:
        raise InvalidInput(
            f"n_processes is {wanted}, but this worker sees {there} device(s) ({device}): one process needs one GPU of "
            "its own. Use fewer, or a worker with more GPUs.",
            ("n_processes",),
        )
    return wanted or there


def own_device(device: str) -> str:
    """Return the device of this process among those that the launcher started."""
    return f"{device}:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def launch(module: str, args: Sequence[str], n: int, folder: Path) -> Any:
    """Run `python -m MODULE FOLDER ARGS` in n processes and return what the first one answered.

    folder: for their answers and logs; emptied first, removed at the end. Raises ProcessesFailed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={n}", "--tee=3", f"--log-dir={folder}"]
    command = [sys.executable, "-m", "worker.launching", str(folder), *options, "-m", module, str(folder), *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=_environment(n)) as process:  # noqa: S603  # our own
        try:
            code = _wait(process, folder)
        except BaseException:
            process.kill()
            raise
    try:
        return _result(code, n, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Return the exit status; a request to pause is handed on as a file, since they all read one standard input."""
    while True:
        if pausing.asked():
            (folder / PAUSE).touch()
        try:
            return process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _environment(n: int) -> dict[str, str]:
    threads = max((os.cpu_count() or 1) // n, 1)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": loopback,  # one machine: nothing is said over a network
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "process ${rank}: ",
    }


def answer_rank(folder: Path, work: Callable[[], Any]) -> int:
    """Do a process' work and leave its answer, or its error in words, in the folder; return its exit status."""
    try:
        message: dict[str, Any] = {"result": work()}
    except RouteprintError as error:
        message = {"error": str(error), "known": True}
    except Exception as error:
        message = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}", "known": False}
    _leave(folder / f"answer-{os.environ['RANK']}.json", message | {"at": time.time()})
    return 0 if "result" in message else 1


def end_process(status: int) -> NoReturn:
    """End this process at once, after what Python does at exit.

    The threads of torch's process groups outlive the interpreter that tears down beneath them, and can abort it: a
    process that has trained to its end would be told as killed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave(path: Path, message: dict[str, Any]) -> None:
    """Write a message so that whoever reads finds all of it or nothing."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(message))
    fresh.replace(path)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _result(code: int, n: int, folder: Path) -> Any:
    answers = [_read(folder / f"answer-{rank}.json") for rank in range(n)]
    if code == 0 and "result" in answers[0]:
        return answers[0]["result"]
    errors = [(rank, answer) for rank, answer in enumerate(answers) if "error" in answer]
    died = _read(folder / _LAUNCHER)
    # A process that meets an error ends the others, which then complain about lost connections: the first one counts,
    # and one that was killed left no word at all.
    known = [error for error in errors if error[1]["known"]]
    if known or (errors and not str(died.get("how", "")).startswith("SIG")):
        rank, first = min(known or errors, key=lambda error: float(error[1]["at"]))
        all_say_so = [answer["error"] for _, answer in known] == [first["error"]] * n
        raise ProcessesFailed(first["error"] if all_say_so else f"Process {rank} of {n}: {first['error']}")
    if died:
        hint = " (the machine may have run out of memory)" if died["how"] == "SIGKILL" else ""
        raise ProcessesFailed(
            f"Process {died['rank']} of {n} ended with {died['how']}{hint}; the others were ended too. "
            "Resume to go on from the last checkpoint."
        )
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    raise ProcessesFailed(f"The launcher of {n} processes ended with {how}. Resume to go on from the last checkpoint.")


def main() -> int:
    """Run torchrun as a program that ends with its parent, and note which process failed first, and how."""
    die_with_parent()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    folder = Path(sys.argv[1])
    try:
        run.main(sys.argv[2:])
    except ChildFailedError as error:
        # One that was killed comes first: the others fail because of it, and may be noticed before it; some of them
        # abort when they lose it.
        killed = [(r, f) for r, f in error.failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
        killed.sort(key=lambda failed: failed[1].exitcode == -signal.SIGABRT)
        rank, failure = killed[0] if killed else error.get_first_failure()
        how = failure.signal_name() if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        _leave(folder / _LAUNCHER, {"rank": rank, "how": how})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
