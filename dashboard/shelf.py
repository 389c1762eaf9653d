"""Files whose name changes with what is in them, served from memory: Streamlit's own bundle and plotly.js.

A first visit asks for about a hundred of them. Streamlit reads each from disk with five hand-overs to a thread pool,
and every hand-over waits for the interpreter while a page's script runs. Not covered: conditional and partial requests,
and every other file: those go on to Streamlit.
"""

import mimetypes
import re
from functools import cache
from pathlib import Path

import streamlit
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.address import root
from dashboard.assets import PLOTLY, STATIC, whole_plotly_name

BUNDLE = Path(streamlit.__file__).parent / "static"
HASHED = re.compile(r"[\w.-]+\.[\w-]{8}\.(js|css|woff2)")
"""A file of Streamlit's bundle with a hash in its name: Html.CzLZZ4bP.js."""
IMPORTS = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")
PARTS = ("BidiComponent", "Html", "ButtonGroup", "Selectbox", "TextInput")
"""Parts of Streamlit's bundle that most pages of ours use; it asks for each only when the first one is to be drawn."""


@cache
def shelf() -> dict[str, Path]:
    """Return {path below the dashboard's root: file} of all that is served from memory."""
    bundle = {f"/{path.relative_to(BUNDLE).as_posix()}": path for path in BUNDLE.rglob("*") if path.is_file()}
    hashed = {name: path for name, path in bundle.items() if HASHED.fullmatch(path.name)}
    return hashed | {f"/app/static/{name}": STATIC / name for name in (PLOTLY, whole_plotly_name())}


@cache
def parts() -> tuple[str, ...]:
    """Return the paths of PARTS and of all that they import, each once; a part this Streamlit lacks is left out."""
    scripts = BUNDLE / "static" / "js"
    found: dict[str, None] = {}
    ahead = [path.name for part in PARTS for path in sorted(scripts.glob(f"{part}.*.js"))]
    while ahead:
        name = ahead.pop()
        if name not in found and (scripts / name).is_file():
            found[name] = None
            ahead += IMPORTS.findall((scripts / name).read_text(encoding="utf-8"))
    return tuple(f"/static/js/{name}" for name in found)


class Shelf:
    """Answers for the files of `shelf()`; each is read when it is first asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._read = cache(Path.read_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is not on the shelf passes through."""
        path = _asked(scope)
        if path is None:
            await self.app(scope, receive, send)
            return
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        kept = {"Cache-Control": "public, immutable, max-age=31536000"}
        await Response(self._read(path), media_type=kind, headers=kept)(scope, receive, send)


def _asked(scope: Scope) -> Path | None:
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    headers = Headers(scope=scope)
    if any(name in headers for name in ("range", "if-none-match", "if-modified-since")):
        return None
    return shelf().get(scope["path"].removeprefix(root()))
