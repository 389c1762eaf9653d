"""The link that lets one browser into the dashboard, once. dashboard/keys.py checks what is signed here."""

import hmac
import secrets
import time

from backend.services import dashboard_url
from backend.settings import Settings


def dashboard_link(settings: Settings, token: str) -> str:
    """Return an address that opens the dashboard in the first browser that visits it within an hour.

    It holds a signature made with the token, never the token itself.
    """
    value = f"{int(time.time())}-{secrets.token_hex(8)}"
    signed = hmac.new(token.encode(), f"routeprint dashboard link\n{value}".encode(), "sha256").hexdigest()[:40]
    return f"{settings.dashboard_url.rstrip('/') or dashboard_url(settings)}/open?key={value}-{signed}"
