"""How much memory a worker's device uses, without loading torch: the worker's own process stays small.

Not covered: GPUs that NVIDIA's own tool does not know; there the figure is absent.
"""

import shutil
import subprocess
import time
from contextlib import suppress

import psutil

_FRESH_SECONDS = 10.0
_PATIENCE_SECONDS = 3.0
"""The heartbeat waits for the answer: far less than what makes a worker look dead."""


class DeviceMemory:
    """gpu: NVIDIA's name of the device (GPU-...); None for a CPU, whose figure is the worker and all it started."""

    def __init__(self, gpu: str | None) -> None:
        self._gpu = gpu
        self._tool = shutil.which("nvidia-smi")
        self._known: int | None = None
        self._until = 0.0

    def used(self) -> int | None:
        """Return the bytes in use, some seconds old at most; None if nobody can tell."""
        if self._gpu is None:
            return _resident()
        if time.monotonic() >= self._until:
            self._known = self._ask(self._gpu)
            self._until = time.monotonic() + _FRESH_SECONDS
        return self._known

    def _ask(self, gpu: str) -> int | None:
        if self._tool is None:
            return None
        command = [self._tool, f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            said = subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE_SECONDS, text=True)  # noqa: S603 - NVIDIA's own tool, no word of a user's
            return int(said.stdout) * 2**20
        return None


def _resident() -> int:
    """Return the resident bytes of this process and of all that it started."""
    me, total = psutil.Process(), 0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
