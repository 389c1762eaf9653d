"""What is taken along from a figure: the call behind it as curl and Python, and its numbers as files."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dashboard import sharing
from dashboard.charts import Heat, Lines, Trace
from tests.dashboard.backdrop import TOKEN, Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import components, heatmaps, plots

Ids = dict[str, str]

FIGURES = {
    "/": {},
    "/analysis": {"view": "batches", "layer": 2, "expert": 5},
    "/batch": {"batch": 3, "sample": 4},
    "/training": {"step": 3},
    "/evaluation": {},
}


def _query(path: str, ids: Ids) -> dict[str, object]:
    known = {"/analysis": {"id": ids["analysis"]}, "/batch": {"analysis": ids["analysis"]}}
    known |= {"/training": {"id": ids["training"]}, "/evaluation": {"id": ids["evaluation"]}}
    return known.get(path, {}) | FIGURES[path]


@pytest.mark.parametrize("path", list(FIGURES))
def test_every_figure_of_a_page_offers_link_curl_python_and_its_picture(
    backdrop: Backdrop, ids: Ids, open_page: Open, path: str
) -> None:
    at = open_page(backdrop.url, path, **_query(path, ids))
    figures = [figure["key"] for figure in heatmaps(at) + plots(at)]
    offered = components(at, "routeprint_share")
    assert figures
    assert set(figures) <= {one["plot"] for one in offered}
    assert all([name for name, _ in one["texts"]] == ["Copy as curl", "Copy as Python"] for one in offered)
    assert TOKEN not in json.dumps(offered)


@pytest.mark.parametrize("room", ["statistics", "sets", "context"])
def test_every_figure_of_a_room_can_be_taken_along(backdrop: Backdrop, ids: Ids, open_page: Open, room: str) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view=room)
    figures = [figure["key"] for figure in heatmaps(at) + plots(at)]
    assert len(figures) > 1
    assert set(figures) <= {one["plot"] for one in components(at, "routeprint_share")}


def _run(words: list[str], **environment: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=os.environ | environment)
    return done.stdout


@pytest.mark.parametrize("body", [None, {"name": "it's a dry run", "method": "top_k", "k": 3}])
def test_what_is_copied_runs_as_it_is(backdrop: Backdrop, ids: Ids, body: dict[str, object] | None) -> None:
    path = f"/analyses/{ids['analysis']}/{'expert-sets' if body else 'batches/3'}"
    params = {"dry_run": True} if body else {"scope": "prompt"}
    call = sharing.Call(backdrop.url, path, params, body)
    expected = "n_experts" if body else "batch_id"
    assert expected in _run([sys.executable, "-c", call.python()], ROUTEPRINT_TOKEN=TOKEN, NO_PROXY="*")
    if shutil.which("curl"):
        line = call.curl().splitlines()[-1].replace("curl ", "curl -sf --noproxy '*' ", 1)
        assert expected in json.loads(_run(["sh", "-c", line], ROUTEPRINT_TOKEN=TOKEN))


@given(some.text(max_size=30), some.text(max_size=30))
def test_no_value_of_an_address_ends_the_shells_quotes(name: str, value: str) -> None:
    call = sharing.Call("http://127.0.0.1:1", "/analyses", {"q": value}, {"name": name} if name else None)
    line = call.curl().splitlines()[-1].replace("curl ", "printf '%s\\n' ", 1)
    assert _run(["sh", "-c", line], ROUTEPRINT_TOKEN="none").endswith(f"{call.url}\n")


def test_the_numbers_of_a_figure_come_back_from_its_files() -> None:
    z = np.array([[0.25, np.nan, -0.5]], dtype="<f4")
    heat = Heat(z=z, labels=("4",), vmax=1.0, label="one layer", floor=np.abs(z))
    files = sharing.of_figure(heat, "map")
    read = pq.read_table(io.BytesIO(files["parquet"][1]())).to_pydict()
    assert read == {
        "layer": ["4"] * 3,
        "expert": [0, 1, 2],
        "risk_diff": [0.25, None, -0.5],
        "noise_floor": [0.25, None, 0.5],
    }
    text = files["csv"][1]()
    assert arrow_csv.read_csv(io.BytesIO(text)).to_pydict()["risk_diff"] == [0.25, None, -0.5]
    assert files["csv"][0] == "map.csv"


def test_a_name_that_a_spreadsheet_would_run_is_made_inert() -> None:
    lines = Lines((Trace([1.0], [None], "all", "=1+1"),), "x", "y", "one point")
    assert sharing.of_figure(lines, "l")["csv"][1]() == b"trace,x,y\n'=1+1,1.0,\n"
