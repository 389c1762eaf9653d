import hashlib
import re
import tomllib
from pathlib import Path

import plotly
import pytest
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from dashboard import shelf
from dashboard.__main__ import options
from dashboard.assets import HERE, ICON, PLOTLY, STATIC, ensure_whole_plotly
from dashboard.first_page import FirstPage, head
from dashboard.plot import library


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


WHOLE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def test_the_whole_plotly_is_the_installed_packages_own_file_and_is_served_statically() -> None:
    served = ensure_whole_plotly()
    assert served.parent == STATIC
    assert served.read_bytes() == WHOLE.read_bytes()
    assert library(whole=True) == f"/app/static/{served.name}"


def test_the_small_plotly_is_the_published_file_of_the_same_version() -> None:
    """plotly-cartesian.min.js of plotly.js-cartesian-dist-min 4.1.1; another plotly package needs another one."""
    small = (STATIC / PLOTLY).read_bytes()
    assert hashlib.sha256(small).hexdigest() == "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"
    version = re.search(rb"plotly\.js v([0-9.]+)", WHOLE.read_bytes()[:200])
    assert version is not None
    assert f"plotly-cartesian-{version[1].decode()}.min.js" == PLOTLY
    assert library() == f"/app/static/{PLOTLY}"


async def _beyond(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("Streamlit's own answer")(scope, receive, send)


def test_files_of_the_shelf_are_those_on_disk_and_all_else_goes_on_to_streamlit() -> None:
    client = TestClient(shelf.Shelf(_beyond))
    for path, file in [*[*shelf.shelf().items()][::40], (f"/app/static/{PLOTLY}", STATIC / PLOTLY)]:
        answer = client.get(path)
        assert answer.content == file.read_bytes()
        assert answer.headers["cache-control"] == "public, immutable, max-age=31536000"
        assert answer.headers["content-type"].startswith(
            {".js": "text/javascript", ".css": "text/css"}.get(file.suffix, "font")
        )
        assert client.get(path, headers={"Range": "bytes=0-9"}).text == "Streamlit's own answer"
        assert client.post(path).text == "Streamlit's own answer"
    for path in (
        "/",
        "/index.html",
        "/static/js/",
        "/static/js/../../index.html",
        "/app/static/.gitignore",
        "/media/x.png",
    ):
        assert client.get(path).text == "Streamlit's own answer"


def test_parts_of_streamlit_that_are_fetched_early_are_there_with_all_that_they_import() -> None:
    early = shelf.parts()
    assert all(any(Path(path).name.startswith(f"{part}.") for path in early) for part in shelf.PARTS)
    assert all(path in shelf.shelf() for path in early)
    imported = {name for path in early for name in shelf.IMPORTS.findall(shelf.shelf()[path].read_text("utf-8"))}
    assert {f"/static/js/{name}" for name in imported} <= set(early)


def test_the_first_page_names_the_server_and_fetches_plotly_early() -> None:
    client = TestClient(FirstPage(_plain_site))
    page = client.get("/batch", headers={"Accept": "text/html", "Accept-Encoding": "gzip", "If-None-Match": "x"})
    assert page.text == f"<head><title>t</title>{head().decode()}</head><script>1</script>"
    assert PLOTLY in page.text
    assert int(page.headers["content-length"]) == len(page.content)
    assert "etag" not in page.headers
    assert client.get("/batch", headers={"Accept": "application/json"}).text == PAGE


PAGE = "<head><title>t</title></head><script>1</script>"
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
