"""A stage that is asked to pause ends after the batch in hand; what is stored by then is where it goes on.

Known to one process. Who asks: child.py, over the stage's standard input; a file, where several processes train.
"""

import threading
from pathlib import Path

_asked = threading.Event()
_file: Path | None = None


class Paused(BaseException):
    """The stage was asked to pause. No Exception: nothing that handles errors may take it for one."""


def ask() -> None:
    """Ask this process to pause."""
    _asked.set()


def by_file(path: Path) -> None:
    """Take a file that appears there for being asked, too."""
    global _file  # noqa: PLW0603 - one per process, as what it stands for
    _file = path


def asked() -> bool:
    """Tell whether this process was asked to pause."""
    return _asked.is_set() or (_file is not None and _file.exists())


def leave_if_asked() -> None:
    """Raise Paused if this process was asked to; called between two batches."""
    if asked():
        raise Paused
