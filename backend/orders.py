"""What the API and its children say to each other (api/children.py, child.py): one order in, lines of JSON out."""

from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Said(StrEnum):
    """What a line of the child is about.

    PREVIEW: the preview. REFUSED: every problem. FOUND: the set was there before. BEGUN: its head is stored, rows
    follow. STORED: all rows are. PLANNED: the plan lies in a file. IMPOSSIBLE: there is no such plan, and why.
    BROKEN: it could not be done, and why.
    """

    PREVIEW = "preview"
    REFUSED = "refused"
    FOUND = "found"
    BEGUN = "begun"
    STORED = "stored"
    PLANNED = "planned"
    IMPOSSIBLE = "impossible"
    BROKEN = "broken"
