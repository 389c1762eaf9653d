"""How a test's browser gets through the dashboard's gate without a page of its own."""

from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext

from dashboard import keys


def let_in(context: BrowserContext, url: str, token: str) -> None:
    """Give a browser context the cookie that the dashboard at this address gives to whoever knows the token."""
    name = f"routeprint_{urlsplit(url).port}"
    context.add_cookies([{"name": name, "value": keys.cookie(token), "url": url}])
