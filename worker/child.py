"""Runs one stage in a subprocess of its own, so that its memory (and its crash) stays its own.

The child lives exactly as long as somebody holds the other end of its standard input: a worker that is killed takes
its child with it, on every operating system. The child's last line on standard output is JSON: {"result": ...} or
{"error": "...", "away": true where it was the database that went away}.
"""

import asyncio
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_TAIL = 60
_GRACE_SECONDS = 10.0


class ChildFailed(RuntimeError):
    """A stage failed. `str()` is the message of the error it raised, or what it printed last."""


class DatabaseAway(ChildFailed):
    """A stage ended because the database server went away: it goes on where it was when it is begun again."""


def die_with_parent() -> None:
    """Call this first in the child: ends the process as soon as its parent is gone."""

    def watch() -> None:
        while os.read(0, 4096):  # end of file: nobody holds the other end any more
            continue
        os._exit(3)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()


def answer(**message: Any) -> None:
    """Print the child's answer, as the last thing it says."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def run_child(*args: str, on_line: Callable[[str], None] | None = None) -> Any:
    """Run `python -m worker.engine ARGS`, hand on each line it prints, and return its result.

    Raises ChildFailed with the child's own error message. If the caller is cancelled, the child is ended first.
    """
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
    if isinstance(message, dict) and "error" in message:
        raise (DatabaseAway if message.get("away") else ChildFailed)(message["error"])
    killed = f"signal {-code}" if code < 0 else f"exit status {code}"
    hint = " (the machine may have run out of memory)" if code == -9 else ""
    raise ChildFailed(f"The stage ended with {killed}{hint}. It said last:\n" + "\n".join(tail))
