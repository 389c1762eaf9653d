"""Cursors: a position in a listing, opaque to clients, checked when it comes back."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query

from backend.api.schemas.common import Listing, clean_text
from backend.domain.errors import InvalidInput
from backend.store.paging import Key, Page

T = TypeVar("T")
Out = TypeVar("Out")
_MAX = 2**53


def encode(key: Key | None) -> str | None:
    """Return the cursor of a key."""
    if key is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> Key | None:
    """Return the key of a cursor. Raises InvalidInput for one that this listing never gave out."""
    if cursor is None:
        return None
    try:
        value = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(value, list) or [type(part) for part in value] != list(kinds):
            raise ValueError(cursor)
        if any(isinstance(part, int) and not 0 <= part < _MAX for part in value):
            raise ValueError(cursor)
        return tuple(clean_text(part) if isinstance(part, str) else part for part in value)
    except (ValueError, binascii.Error, RecursionError):
        message = "This cursor does not belong to this listing: take `next_cursor` as it came."
        raise InvalidInput(message, ("query", "cursor")) from None


@dataclass(frozen=True, slots=True)
class Paging:
    """How much of a listing to return, and from where."""

    limit: int
    cursor: str | None

    def after(self, *kinds: type) -> Key | None:
        """Return the key to start after, made of values of these types."""
        return decode(self.cursor, *kinds)


def paging(
    limit: Annotated[int, Query(ge=1, le=500, description="How many items at most.")] = 100,
    cursor: Annotated[str | None, Query(max_length=4000, description="`next_cursor` of the page before.")] = None,
) -> Paging:
    """Read the two query parameters of every listing."""
    return Paging(limit, cursor)


Paged = Annotated[Paging, Depends(paging)]


def listing(page: Page[T], show: Callable[[T], Out]) -> Listing[Any]:
    """Return a page as the answer's body."""
    return Listing(items=[show(item) for item in page.items], next_cursor=encode(page.next_key))
