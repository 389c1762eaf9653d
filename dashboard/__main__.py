"""`python -m dashboard`: serve the dashboard on 127.0.0.1, port ROUTEPRINT_DASHBOARD_PORT (8322), behind its gate."""

import ipaddress
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.middleware import Middleware

from dashboard import keys
from dashboard.assets import HERE, ensure_whole_plotly
from dashboard.first_page import FirstPage
from dashboard.gate import LOCAL_NAMES, Gate
from dashboard.shelf import Shelf

SWITCH_SECONDS = 0.0005
"""How long a page's script may hold the interpreter while requests wait. Python's own 5 ms, at each of the many short
waits of a request, made a page that needs 0.1 s of work take 0.5 s."""


def host() -> str:
    """Return the address to listen at."""
    return os.environ.get("ROUTEPRINT_DASHBOARD_HOST") or "127.0.0.1"


def port() -> int:
    """Return the port to listen at."""
    return int(os.environ.get("ROUTEPRINT_DASHBOARD_PORT") or "8322")


def allowed_hosts() -> frozenset[str]:
    """Return the names under which the dashboard may be addressed: this machine's, and the one it was given."""
    named = {host(), urlsplit(os.environ.get("ROUTEPRINT_DASHBOARD_URL") or "").hostname or ""}
    return LOCAL_NAMES | {name.strip("[]").lower() for name in named} - {"", "0.0.0.0", "::"}  # noqa: S104 - not bound


def check_bind() -> None:
    """Refuse to serve other machines without a token. Exits with how to do it right."""
    try:
        is_local = host() == "localhost" or ipaddress.ip_address(host().strip("[]")).is_loopback
    except ValueError:
        is_local = False
    if not is_local and not keys.token():
        raise SystemExit(
            f"ROUTEPRINT_DASHBOARD_HOST={host()} would let other machines in, and the dashboard has no access token. "
            "Start it with `routeprint dashboard`, or set ROUTEPRINT_TOKEN; or leave ROUTEPRINT_DASHBOARD_HOST at "
            "127.0.0.1 and reach it through an SSH tunnel."
        )


def options() -> dict[str, Any]:
    """Return what is set for Streamlit here. Look and serving options lie in .streamlit/config.toml."""
    return {
        "server.address": host(),
        "server.port": port(),
        "server.headless": True,
        "server.enableStaticServing": True,
        "browser.gatherUsageStats": False,
    }


def gate() -> Middleware:
    """Return the gate of this process."""
    return Middleware(Gate, token=keys.token(), hosts=allowed_hosts(), cookie=keys.cookie_name())


def main() -> None:
    """Prepare what the browser needs and serve until ended."""
    check_bind()
    ensure_whole_plotly()
    sys.setswitchinterval(SWITCH_SECONDS)
    # Nobody says himself which address he comes from: else who guesses the token names another one each time.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    st.App(HERE / "app.py", middleware=[gate(), Middleware(Shelf), Middleware(FirstPage)]).run(config=options())


if __name__ == "__main__":
    main()
