"""A limit of time and memory around work that files of others decide about: chat templates, configurations.

Time is processor time of this process, so a busy machine changes nothing. Not covered: threads other than the main one
(Python runs signal handlers in the main thread alone) and systems other than Linux, where only the time is limited.
"""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


class LimitReached(Exception):
    """The work took more time or memory than it may. says: which, and how much that is."""


@contextmanager
def limited(seconds: float, memory: int) -> Iterator[None]:
    """Raise LimitReached once the block has used `seconds` of processor time or `memory` bytes more than before it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise LimitReached(f"{seconds:g} s of processor time")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, end)
    try:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (_lowest(_taken() + memory, *before), before[1]))
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)  # again and again: a handler's error can be swallowed
        yield
    except MemoryError as error:
        raise LimitReached(f"{memory // 2**20} MiB of memory") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _taken() -> int:
    """Return the address space of this process in bytes. Raises OSError where the system does not say."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _lowest(*limits: int) -> int:
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)
