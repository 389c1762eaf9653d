"""Streamlit's own login (OpenID Connect), where `[auth]` is configured in its secrets: who may see the pages then.

Off unless configured. Nobody is let in by a provider alone: ROUTEPRINT_DASHBOARD_USERS names who may. Whoever holds
the access token may come in without it, through /open (gate.py). Not covered: what a user may do; all may do all.
"""

import os
from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

from dashboard import address, keys, ui


def is_configured() -> bool:
    """Tell whether Streamlit's secrets hold an [auth] section."""
    try:
        return "auth" in st.secrets
    except StreamlitSecretNotFoundError:  # there is no file of secrets at all
        return False


def named_users() -> frozenset[str]:
    """Return who may come in: e-mail addresses, whole domains (`@lab.example`), or `*` for whom the provider knows."""
    listed = os.environ.get("ROUTEPRINT_DASHBOARD_USERS", "").split(",")
    return frozenset(name.strip().lower() for name in listed if name.strip())


def is_named(user: Mapping[str, Any], named: frozenset[str]) -> bool:
    """Tell whether the provider's claims are those of somebody who may come in. An unverified address is nobody's."""
    email = str(user.get("email") or "").lower()
    if "*" in named:
        return True
    if str(user.get("email_verified", True)).lower() != "true":
        return False
    local, at, domain = email.rpartition("@")
    return bool(local and at) and (email in named or f"@{domain}" in named)


def may_see() -> bool:
    """Return True if this session may see the pages; else show what to do, and return False."""
    if not is_configured() or _brings_cookie():
        return True
    if not st.user.is_logged_in:
        ui.show(_asks)
        return False
    if not is_named(st.user.to_dict(), named_users()):
        ui.show(_refuses)
        return False
    return True


def _brings_cookie() -> bool:
    brought = str(st.context.cookies.get(keys.cookie_name()) or "")
    return bool(keys.token()) and keys.cookie_holds(keys.token(), brought)


def _asks() -> None:
    with_token = (
        f' Or <a href="{address.href("open")}" target="_self">enter the access token</a>.' if keys.token() else ""
    )
    ui.card("Log in", [f"This dashboard is open to those whom its operator named.{with_token}"], "rp-waits")
    if st.button("Log in", type="primary"):
        st.login()


def _refuses() -> None:
    who = ui.html(str(st.user.to_dict().get("email") or "without an e-mail address"))
    said = f"You are logged in as {who}, which is not among the users of this dashboard."
    ui.card(
        "Not among the users", [said, "Its operator names them in <code>ROUTEPRINT_DASHBOARD_USERS</code>."], "rp-wrong"
    )
    if st.button("Log out"):
        st.logout()
