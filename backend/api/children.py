"""Children of the API: what takes long in Python runs in processes of its own (backend/child.py), never in a request.

At most SLOTS at a time; the next waits for its turn. Whoever starts one ends it: with the request, or, for a set whose
rows land after the answer, in a thread of its own.
"""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any

from backend.domain.errors import RouteprintError
from backend.orders import Json, Said

log = logging.getLogger(__name__)

SLOTS = 2


class Child:
    """One running child. It dies with this process, or when it is closed."""

    def __init__(self, order: Json) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stdin: IO[bytes] | None = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()  # and stays open: its end is the child's

    def hear(self) -> tuple[Said, Any]:
        """Wait for what the child says next. Raises RouteprintError if it broke or ended without a word."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            hint = " (the machine may have run out of memory)" if code == -9 else ""
            raise RouteprintError(f"The process that did this ended with status {code}{hint}.")
        message = json.loads(line)
        if message["said"] == Said.BROKEN:
            raise RouteprintError(message["value"])
        return Said(message["said"]), message["value"]

    def end(self) -> None:
        """Kill the child; whoever waits for its next word learns of it."""
        self._process.kill()

    def close(self) -> None:
        """End the child if it still runs, and give everything back."""
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


class Children:
    """Every child and every thread that works behind an answer."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._threads: set[threading.Thread] = set()
        self._stopping = threading.Event()

    def start(self, order: Json, stack: ExitStack) -> Child:
        """Start a child once there is room for it; leaving the stack ends it."""
        self._slots.acquire()
        stack.callback(self._slots.release)
        child = Child(order)
        with self._lock:
            self._running.add(child)
        stack.callback(self._forget, child)
        return child

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._running.discard(child)
        child.close()

    def later(self, work: Callable[[], None]) -> threading.Thread:
        """Do work in a thread of its own: an answer's background task would hold its connection until it is done."""

        def run() -> None:
            try:
                work()
            except Exception:
                log.exception("work behind an answer failed")
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name="behind-an-answer", daemon=True)
        self._threads.add(thread)
        thread.start()
        return thread

    @property
    def is_stopping(self) -> bool:
        """Whether this process ends: long work stops at the next chance and is taken up at the next start."""
        return self._stopping.is_set()

    def join(self) -> None:
        """Wait until all work behind answers is done."""
        for thread in list(self._threads):
            thread.join()

    def stop(self) -> None:
        """End every child and wait for the threads behind them."""
        self._stopping.set()
        with self._lock:
            running = list(self._running)
        for child in running:
            child.end()
        self.join()
