import tomllib
from pathlib import Path

import plotly
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from dashboard.__main__ import options
from dashboard.assets import HERE, ICON, STATIC, ensure_plotly, plotly_name
from dashboard.first_page import FirstPage, head


def test_the_dashboard_serves_this_machine_only_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTEPRINT_DASHBOARD_HOST", raising=False)
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_PORT", "8600")
    said = options()
    assert (said["server.address"], said["server.port"]) == ("127.0.0.1", 8600)
    assert said["server.headless"] is True
    assert said["browser.gatherUsageStats"] is False


def test_a_container_may_name_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_HOST", "0.0.0.0")
    assert options()["server.address"] == "0.0.0.0"


def test_plotly_is_the_installed_packages_own_file_and_is_served_statically() -> None:
    served = ensure_plotly()
    assert served.parent == STATIC
    assert served.read_bytes() == (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()


def test_the_first_page_names_the_server_and_fetches_plotly_early() -> None:
    client = TestClient(FirstPage(_plain_site))
    page = client.get("/batch", headers={"Accept": "text/html", "Accept-Encoding": "gzip", "If-None-Match": "x"})
    assert page.text == f"<title>t</title>{head().decode()}<script>1</script>"
    assert plotly_name() in page.text
    assert int(page.headers["content-length"]) == len(page.content)
    assert "etag" not in page.headers
    assert client.get("/batch", headers={"Accept": "application/json"}).text == PAGE


PAGE = "<title>t</title><script>1</script>"
HTML = (b"content-type", b"text/html; charset=utf-8")


async def _plain_site(scope: Scope, receive: Receive, send: Send) -> None:
    """A page that comes in two pieces, and would come compressed or not at all if the request allowed it."""
    asked = {key for key, _ in scope["headers"]}
    if b"text/html" in dict(scope["headers"])[b"accept"]:
        assert not asked & {b"accept-encoding", b"if-none-match"}
    await send({"type": "http.response.start", "status": 200, "headers": [HTML, (b"etag", b"x")]})
    await send({"type": "http.response.body", "body": PAGE[:5].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[5:].encode()})


def test_no_font_or_picture_of_the_theme_comes_from_elsewhere() -> None:
    theme = tomllib.loads((HERE / ".streamlit" / "config.toml").read_text())
    assert theme["browser"]["gatherUsageStats"] is False
    assert "http" not in (HERE / ".streamlit" / "config.toml").read_text()
    assert {"light", "dark"} <= set(theme["theme"])


def test_the_icon_is_a_picture_of_our_own() -> None:
    with Image.open(ICON) as picture:
        assert picture.format == "PNG"
        assert picture.size == (128, 128)


def test_no_folder_called_pages_lies_beside_the_app() -> None:
    """Streamlit would list it by itself and run a page without app.py on a first visit to a deep address."""
    assert not (HERE / "pages").exists()
