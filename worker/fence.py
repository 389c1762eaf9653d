"""The fence around a stage: work that was taken over by another worker is written to no more.

A worker that was frozen (its machine slept, its disk hung) is taken for dead, and its work goes on elsewhere. When it
wakes, its child would write beside the other one. So each time a piece of work is begun, a token of that beginning is
stored; the child is given it, and every transaction it opens lands only while no other token stands there.
Not covered: files, which a training keeps to itself by a lock (checkpoints.py).
"""

from functools import partial

from backend.store import fleet
from backend.store.engine import guard

_FLAG = "--fence"
_own: list[str] = []


def arguments(work: str, token: str) -> list[str]:
    """Return what a stage's command line begins with, so that it stays inside its fence."""
    return [_FLAG, work, token]


def put_up(args: list[str]) -> list[str]:
    """Take a fence from the front of a command line, put it up in this process, and return the rest."""
    if args[:1] != [_FLAG]:
        return args
    _own[:] = args[:3]
    guard(partial(fleet.check_holder, work=args[1], token=args[2]))
    return args[3:]


def own() -> list[str]:
    """Return the fence of this process, for the processes that it starts; empty where there is none."""
    return list(_own)
