"""A child of the API: `python -m backend.child`, started by api/children.py only, for work that takes long in Python.

The API's threads share one interpreter: a minute of parsing or planning in one of them would slow down every answer,
and what it takes of memory would stay. A process of its own gives both back. It is a child of the API and not a job of
a worker, because prompts can be imported where no worker runs. It lives as long as its standard input is held open.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from backend.domain.errors import RouteprintError
from backend.importing import bring_in, preview
from backend.orders import Json, Said
from backend.planning import plan

VERBS: dict[str, Callable[[Json], Iterator[tuple[Said, Any]]]] = {"preview": preview, "import": bring_in, "plan": plan}


def _die_with_parent() -> None:
    def watch() -> None:
        while os.read(0, 4096):  # end of file: nobody holds the other end any more
            continue
        os._exit(3)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()


def _say(said: Said, value: Any) -> None:
    sys.stdout.write(json.dumps({"said": said, "value": value}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Read one order, do it, and say how it went."""
    order = json.loads(sys.stdin.buffer.readline())
    _die_with_parent()
    try:
        for said, value in VERBS[order["verb"]](order):
            _say(said, value)
    except RouteprintError as error:
        _say(Said.BROKEN, str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
