"""How much one address may try, and how much may go on at once: simple counts in the memory of one process.

Not covered: several API processes (each counts for itself), a reverse proxy (all that come through it are one address).
"""

import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from re import fullmatch

MOST_WRONG, WINDOW_SECONDS = 20, 60.0
"""So many different wrong tokens an address may send in so many seconds; then it waits until they are over."""
MOST_ADDRESSES = 10_000
"""So many are remembered; the one that began first is forgotten for a new one."""
UNGUESSABLE = 24
"""A token of so many characters is let in even while its address waits: nobody guesses it, slowed or not."""


class TooMany(Exception):
    """More than may be: tried, or going on at once. seconds: when to try again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class WrongTokens:
    """Counts wrong tokens by address: of IPv6 by network, since one machine has a whole one to itself.

    One that is sent again and again, by a program that was not told of a new one, is one guess. Whatever only the token
    can make, a cookie or the key of a link, is a guess of it, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, set[int]]] = OrderedDict()  # {network: (since, hashes)}, by since

    def is_let_in(self, address: str, given: str, fits: Callable[[], bool], *, is_unguessable: bool) -> bool:
        """Tell whether what was given is right, and count it if it is wrong. Raises TooMany while its address waits.

        fits: compares it. is_unguessable: nobody finds the right one by trying, so it is let in even then.
        """
        seconds = self.wait(address, given)
        if (not seconds or is_unguessable) and fits():
            return True
        if seconds:
            raise TooMany("Too many wrong tokens came from this address: wait, then send the right one.", seconds)
        self.add(address, given)
        return False

    def wait(self, address: str, token: str) -> int:
        """Return how many seconds an address has to wait with this token; 0 if it may try, or was told already."""
        since, wrong = self._seen.get(_network(address), (0.0, set()))
        left = since + WINDOW_SECONDS - self._clock()
        return math.ceil(left) if len(wrong) >= MOST_WRONG and hash(token) not in wrong and left > 0 else 0

    def add(self, address: str, token: str) -> None:
        """Note a wrong token."""
        now, key = self._clock(), _network(address)
        since, wrong = self._seen.get(key, (now, set()))
        if since + WINDOW_SECONDS <= now:
            del self._seen[key]
            since, wrong = now, set()
        self._seen[key] = since, wrong | {hash(token)}
        if len(self._seen) > MOST_ADDRESSES:
            self._seen.popitem(last=False)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket of the file system, a test client
        return address
    found = getattr(found, "ipv4_mapped", None) or found
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


MOST_AT_ONCE = {"uploads": 8, "event streams": 64}
"""What each holds for as long as it goes on: a thread and a file on disk; a look at the database every second or so."""
_WHICH = (
    ("uploads", "POST", r"/api/v1/datasets(/preview)?"),
    ("event streams", "GET", r"/api/v1/jobs/[^/]+/events"),
)
_AGAIN_SECONDS = 2


class AtOnce:
    """Counts what goes on of each kind; used by one event loop."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()

    @contextmanager
    def one(self, method: str, path: str) -> Iterator[None]:
        """Hold a place while a request goes on, if it is of a kind that is counted. Raises TooMany if none is free."""
        kind = next((kind for kind, verb, pattern in _WHICH if verb == method and fullmatch(pattern, path)), None)
        if kind is None:
            yield
            return
        if self._now[kind] >= MOST_AT_ONCE[kind]:
            raise TooMany(f"There are {MOST_AT_ONCE[kind]} {kind} going on already: try again shortly.", _AGAIN_SECONDS)
        self._now[kind] += 1
        try:
            yield
        finally:
            self._now[kind] -= 1
