"""Proofs that a browser may see the dashboard: a cookie, and a link that opens once. Both are derived from the access
token by HMAC, so rotating it ends them all, and neither tells anything about it.

A link is printed by `routeprint up` (backend/commands/entering.py signs it the same way).
"""

import hmac
import os
import time

COOKIE_SECONDS = 14 * 24 * 3600
LINK_SECONDS = 3600
_CLOCKS_APART = 60.0


def token() -> str:
    """Return the token that this process holds, or "" if every session is to bring its own."""
    return os.environ.get("ROUTEPRINT_TOKEN", "")


def cookie_name() -> str:
    """Return the cookie's name. A browser sends cookies to every port of a host, so the port is part of the name."""
    return f"routeprint_{os.environ.get('ROUTEPRINT_DASHBOARD_PORT') or '8322'}"


def sign(token: str, purpose: str, value: str) -> str:
    """Return the first 160 bits of the HMAC-SHA256 of a value for one purpose, under the token, in hex."""
    return hmac.new(token.encode(), f"routeprint dashboard {purpose}\n{value}".encode(), "sha256").hexdigest()[:40]


def is_token(token: str, given: str) -> bool:
    """Compare what somebody typed with the token, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def cookie(token: str) -> str:
    """Return the value of a cookie that holds from now on for COOKIE_SECONDS."""
    until = str(int(time.time()) + COOKIE_SECONDS)
    return f"{until}.{sign(token, 'cookie', until)}"


def cookie_holds(token: str, value: str) -> bool:
    """Tell whether a cookie was made with this token and is not too old."""
    until, _, signature = value.partition(".")
    fits = hmac.compare_digest(signature.encode("utf-8", "replace"), sign(token, "cookie", until).encode())
    return fits and time.time() < int(until)  # the signature fits, so `until` is a number that we wrote


class Links:
    """The links this process has seen. Each opens once; one made before the process began opens nothing."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._since = time.time() - _CLOCKS_APART
        self._used: dict[str, float] = {}

    def use(self, key: str) -> bool:
        """Take a link's key `<seconds>-<random>-<signature>`; False if it is wrong, too old or used already."""
        value, _, signature = key.rpartition("-")
        wanted = sign(self._token, "link", value)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), wanted.encode()):
            return False
        made = int(value.partition("-")[0])
        now = time.time()
        self._used = {old: at for old, at in self._used.items() if at > now - LINK_SECONDS - _CLOCKS_APART}
        if value in self._used or not max(self._since, now - LINK_SECONDS) <= made <= now + _CLOCKS_APART:
            return False
        self._used[value] = now
        return True
