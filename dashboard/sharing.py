"""Taking a figure along: its link, the call behind it as curl and as Python, its numbers as files, its picture.

None of them holds the access token: the calls read it from ROUTEPRINT_TOKEN. Files are made when they are asked for.
"""

import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from dashboard.assets import read
from dashboard.charts import Heat, Lines
from dashboard.client import PREFIX, Json, as_sent

Columns = Mapping[str, list[Any]]
Files = Mapping[str, tuple[str, Callable[[], bytes]]]
"""{format: (file name, what makes the file)}"""

_component = st.components.v2.component(
    "routeprint_share",
    html='<div class="rp-share"></div>',
    css=read("share.css"),
    js=read("base.js") + read("share.js"),
    isolate_styles=False,
)


@dataclass(frozen=True, slots=True)
class Call:
    """The request behind a figure. body: JSON of a POST; without one it is a GET."""

    base_url: str
    path: str
    params: Mapping[str, object] = field(default_factory=dict)
    body: Json | None = None

    @property
    def url(self) -> str:
        """The whole address; parameters that are None are left out."""
        query = urlencode({k: as_sent(v) for k, v in self.params.items() if v is not None}, doseq=True)
        return f"{self.base_url}{PREFIX}{self.path}{f'?{query}' if query else ''}"

    def curl(self) -> str:
        """Two lines for a terminal."""
        sent = f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(self.body))}" if self.body else ""
        call = f'curl -H "Authorization: Bearer $ROUTEPRINT_TOKEN"{sent} {shlex.quote(self.url)}'
        return f"export ROUTEPRINT_TOKEN=$(routeprint token)\n{call}"

    def python(self) -> str:
        """Lines for Python, which find the token where the terminal has it."""
        verb, sent = ("post", f"    json={self.body!r},\n") if self.body else ("get", "")
        return (
            "# after: export ROUTEPRINT_TOKEN=$(routeprint token)\n"
            "import os\n\nimport httpx\n\n"
            f"answer = httpx.{verb}(\n    {self.url!r},\n{sent}"
            '    headers={"Authorization": f"Bearer {os.environ[\'ROUTEPRINT_TOKEN\']}"},\n)\n'
            "print(answer.raise_for_status().json())"
        )


def offer(call: Call, *, key: str, files: Files, label: str, plot: str | None = None) -> None:
    """Show the popover. plot: key of the figure whose picture is offered."""
    with st.popover(label, icon=":material/link:"):
        texts = [["Copy as curl", call.curl()], ["Copy as Python", call.python()]]
        _component(key=f"{key}:copy", data={"texts": texts, "plot": plot})
        with st.container(horizontal=True):
            for form, (name, make) in files.items():
                st.download_button(
                    form.upper(),
                    data=make,
                    file_name=name,
                    key=f"{key}:{form}",
                    icon=":material/download:",
                    on_click="ignore",
                )


def of_figure(figure: Heat | Lines, name: str) -> Files:
    """Return files of the numbers that a figure shows, for figures whose call gives no table."""
    makers: dict[str, Callable[[Columns], bytes]] = {"csv": _csv, "parquet": _parquet}
    return {
        form: (f"{name}.{form}", lambda make=make: make(figure.columns()))  # type: ignore[misc]
        for form, make in makers.items()
    }


def _csv(columns: Columns) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_inert(value) for value in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula; what is not there is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _parquet(columns: Columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}), sink)
    return sink.getvalue()
