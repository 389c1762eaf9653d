"""What one look at an installation found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `todo` is empty where nothing need be done."""

    name: str
    state: State
    found: str
    todo: str = ""
