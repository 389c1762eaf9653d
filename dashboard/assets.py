"""Files the browser needs: plotly.js, small and whole, and our own pictures.

The small one is plotly.js' own bundle of the flat chart types, as published on npm (plotly.js-cartesian-dist-min) and
kept in `static`: a browser reads its 1.5 MB in a third of the time that the 4.8 MB take. The whole one, which also
draws by WebGL, comes out of the installed plotly package and is asked for where a plot has very many points.

Not covered: Streamlit's own bundle, which Streamlit serves itself.
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import plotly

HERE = Path(__file__).parent
STATIC = HERE / "static"
FRONTEND = HERE / "frontend"
ICON = HERE / "images" / "icon.png"
WORDMARK = HERE / "images" / "wordmark.png"


PLOTLY = "plotly-cartesian-4.1.1.min.js"
"""The small plotly.js in STATIC; of the same version as the whole one."""


def whole_plotly_name() -> str:
    """Return the file name of the whole plotly.js: the package's version in it makes every upgrade a new address."""
    return f"plotly-{version('plotly')}.min.js"


def ensure_whole_plotly() -> Path:
    """Copy the whole plotly.js into the folder that is served, unless it is already there; return its path.

    Written beside and renamed, so that two processes starting at once never serve half a file.
    """
    target = STATIC / whole_plotly_name()
    if not target.exists():
        source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        partial = target.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(source, partial)
        partial.replace(target)
    return target


def read(name: str) -> str:
    """Return one of the front-end sources as text."""
    return (FRONTEND / name).read_text(encoding="utf-8")
