"""The API's children: memory that grows by a few bytes a row, and plans that are those of the request itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from backend.api import planning
from backend.domain.prompts import LabelMeaning
from backend.domain.reading import SourceFile, check_files
from backend.importing import describe, import_order
from backend.store import imports
from backend.store import tables as t
from backend.store.engine import make_engine, reading
from backend.store.migrate import upgrade
from tests.backend import seeding
from tests.backend.api.calls import Api

MEANING = LabelMeaning.from_text("harmless_harmful")
MEASURED = """
import re, sys
from pathlib import Path
from backend.child import main
code = main()
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)))
sys.exit(code)
"""
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's high-water mark is Linux's")


def write_csv(path, n_rows):
    with path.open("w") as file:
        file.write("prompt,label,response\n")
        for n in range(n_rows):
            file.write(f"How do I water plant number {n} of {n_rows}?,{('safe', 'unsafe')[n % 2]},With a can. {n}\n")


def said(order, script=MEASURED):
    """Run a child on an order; return its lines. What it prints at the end is its largest resident size."""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()
    lines = process.stdout.read().splitlines()
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0
    return [json.loads(line) for line in lines]


@on_linux
@pytest.mark.slow
def test_memory_grows_by_digests_and_not_by_rows(tmp_path):
    peaks = {}
    for n in (15_000, 60_000):
        url = f"sqlite:///{tmp_path / f'{n}.sqlite3'}"
        upgrade(url)
        write_csv(tmp_path / "rows.csv", n)
        source = SourceFile(tmp_path / "rows.csv", "rows.csv")
        order = import_order(url, "large", MEANING, [source], [{"sha256": "5" * 64, "bytes": 1}])
        *lines, peaks[n] = said(order | {"cache_mb": 2})
        assert [line["said"] for line in lines] == ["begun", "stored"]
        assert lines[0]["value"]["n_rows"] == n
    grown = (peaks[60_000] - peaks[15_000]) / 45_000
    assert grown < 300, f"{grown:.0f} bytes a row"  # a row itself takes a kilobyte and more
    assert peaks[60_000] < 250 * 2**20


def test_no_transaction_of_an_import_holds_more_rows_than_the_pace_allows(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    upgrade(url)
    write_csv(tmp_path / "rows.csv", 12_000)
    checked = check_files([SourceFile(tmp_path / "rows.csv", "rows.csv")], MEANING)
    engine = make_engine(url)
    in_transaction, largest, n_transactions = 0, 0, 0

    @event.listens_for(engine, "before_cursor_execute")
    def count(_connection, _cursor, statement, parameters, *_rest):
        nonlocal in_transaction
        if statement.startswith("INSERT INTO prompt_rows"):
            in_transaction += len(parameters)

    @event.listens_for(engine, "commit")
    def commit(_connection):
        nonlocal in_transaction, largest, n_transactions
        largest, n_transactions = max(largest, in_transaction), n_transactions + bool(in_transaction)
        in_transaction = 0

    dataset, is_new = imports.store(engine, "large", checked, describe(checked, [{"sha256": "5" * 64, "bytes": 1}]))
    assert is_new
    imports.fill(engine, dataset.id, checked.rows())
    assert largest <= imports.MOST_ROWS
    assert n_transactions > 2
    with reading(engine) as session:
        stored = session.get_one(t.Dataset, dataset.id)
        assert (stored.status, stored.stored, stored.sha256) == ("succeeded", 12_000, checked.settled.sha256)
    engine.dispose()


@pytest.mark.parametrize("strategy", ["shuffled", "stratified"])
def test_a_child_plans_what_the_request_itself_would(api: Api, engine, monkeypatch, strategy):
    seeding.add_model(engine)
    dataset = api.dataset(30)["id"]
    body = {"dataset_id": dataset, "model": "tiny", "batch_size": 4, "strategy": strategy}
    here = api.post("/analyses", 202, json=body)["plan"]
    monkeypatch.setattr(planning, "MANY_ROWS", 0)
    assert api.post("/analyses", 202, json=body)["plan"] == here
    assert api.post("/analyses", json=body, params={"dry_run": True})["plan"] == here
    assert not list(api.client.app.state.edge.scratch.iterdir())


def test_a_plan_that_is_not_possible_is_refused_by_field_wherever_it_is_tried(api: Api, engine, monkeypatch):
    seeding.add_model(engine)
    body = {"dataset_id": api.dataset(3)["id"], "model": "tiny", "strategy": "stratified", "stratify_by": ["group"]}
    body |= {"batch_size": 4000, "safe_ratio": 0.0005, "keep_short": False}
    here = api.post("/analyses", 422, json=body)
    monkeypatch.setattr(planning, "MANY_ROWS", 0)
    assert api.post("/analyses", 422, json=body) == here
    assert here["errors"][0]["loc"] == ["batch_size"]
