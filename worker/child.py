"""Runs one stage in a subprocess of its own, so that its memory (and its crash) stays its own.

The child lives exactly as long as somebody holds the other end of its standard input: a worker that is killed takes
its child with it, on every operating system. The child's last line on standard output is JSON: {"result": ...} or
{"error": "...", "away": true where it was the database that went away}, or {"paused": true}: any byte on its standard
input asks it to end after the batch in hand.
"""

import asyncio
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from worker import pausing

_TAIL = 60
_GRACE_SECONDS = 10.0
_running: dict[asyncio.subprocess.Process, asyncio.AbstractEventLoop] = {}
_pausing = threading.Event()


class ChildFailed(RuntimeError):
    """A stage failed. `str()` is the message of the error it raised, or what it printed last."""


class DatabaseAway(ChildFailed):
    """A stage ended because the database server went away: it goes on where it was when it is begun again."""


class StagePaused(ChildFailed):
    """A stage ended after the batch in hand because it was asked to, or did not begin: the worker is ending."""


def die_with_parent() -> None:
    """Call this first in the child: ends the process as soon as its parent is gone, and hears the parent's requests."""

    def watch() -> None:
        while os.read(0, 4096):  # end of file: nobody holds the other end any more
            pausing.ask()
        os._exit(3)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()


def answer(**message: Any) -> None:
    """Print the child's answer, as the last thing it says."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def pause_all() -> int:
    """Ask every stage that runs to end after the batch in hand, and let none begin. Return how many run. Any thread."""
    _pausing.set()
    running = list(_running.items())
    for process, loop in running:
        if process.stdin is not None:
            loop.call_soon_threadsafe(process.stdin.write, b"pause\n")
    return len(running)


def n_running() -> int:
    """Return how many stages run here."""
    return len(_running)


async def run_child(*args: str, on_line: Callable[[str], None] | None = None) -> Any:
    """Run `python -m worker.engine ARGS`, hand on each line it prints, and return its result.

    Raises ChildFailed with the child's own error message, StagePaused where it was asked to pause. If the caller is
    cancelled, the child is ended first.
    """
    if _pausing.is_set():
        raise StagePaused("The worker is ending.")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker.engine",
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**24,
        env={**os.environ, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"},  # a bar redrawn in a log is no progress
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    _running[process] = asyncio.get_running_loop()
    if _pausing.is_set() and process.stdin is not None:  # asked while it was being started
        process.stdin.write(b"pause\n")
    try:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            tail.append(line)
            if on_line and line and not line.startswith("{"):
                on_line(line)
        code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    finally:
        _running.pop(process, None)
    return _result(code, tail)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _result(code: int, tail: deque[str]) -> Any:
    try:
        message = json.loads(tail[-1])
    except (IndexError, ValueError):
        message = None
    if code == 0 and isinstance(message, dict) and "result" in message:
        return message["result"]
    if isinstance(message, dict) and message.get("paused"):
        raise StagePaused("Paused after the batch in hand.")
    if isinstance(message, dict) and "error" in message:
        raise (DatabaseAway if message.get("away") else ChildFailed)(message["error"])
    killed = f"signal {-code}" if code < 0 else f"exit status {code}"
    hint = " (the machine may have run out of memory)" if code == -9 else ""
    raise ChildFailed(f"The stage ended with {killed}{hint}. It said last:\n" + "\n".join(tail))
