"""Lists and logs: found by words, filtered, ordered; a log that follows and fetches only what is new."""

import ast
from pathlib import Path
from unittest.mock import patch

import streamlit as st

import dashboard
from backend.store import writes
from dashboard.client import Api
from dashboard.parts import job_log
from tests.dashboard.backdrop import TOKEN, Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import tables, words

Ids = dict[str, str]


def test_evaluations_are_found_by_their_tags_and_ordered(backdrop: Backdrop, ids: Ids, open_page: Open):
    other = backdrop.evaluate(ids["dataset"], ids["set"], n_random=2, name="Another")
    backdrop.call("PATCH", f"/evaluations/{other}", json={"tags": ["pilot"]})
    rows = tables(open_page(backdrop.url, "/evaluation", q="pilot"))["Evaluations"]["rows"]
    assert [row["cells"]["name"]["t"] for row in rows] == ["Another · pilot"]
    rows = tables(open_page(backdrop.url, "/evaluation", sort="name"))["Evaluations"]["rows"]
    assert [row["cells"]["name"]["t"] for row in rows][:2] == ["Another · pilot", "Does it matter"]
    assert "No evaluation matches" in words(open_page(backdrop.url, "/evaluation", q="nothing like it"))
    backdrop.call("DELETE", f"/evaluations/{other}")  # the backdrop is shared


def test_jobs_are_filtered_by_their_status(backdrop: Backdrop, ids: Ids, open_page: Open):
    rows = tables(open_page(backdrop.url, "/jobs", status="succeeded"))["Jobs"]["rows"]
    assert {row["cells"]["status"]["v"] for row in rows} == {"succeeded"}
    assert "No job has this status" in words(open_page(backdrop.url, "/jobs", status="cancelled"))


def test_a_log_fetches_only_what_is_new(backdrop: Backdrop, ids: Ids):
    job = backdrop.call("GET", f"/analyses/{ids['running']}")["job_id"]
    with backdrop.writing() as session:
        for n in range(1200):
            writes.log(session, job, f"line {n}")
    session_state: dict[str, object] = {}
    api, asked = Api(backdrop.url, TOKEN), []
    get = Api.get

    def counted(self: Api, path: str, **params: object):
        asked.append(params.get("cursor"))
        return get(self, path, **params)

    with patch.object(st, "session_state", session_state), patch.object(Api, "get", counted):
        tail, total = job_log.newest(api, job)
        assert (tail[-1]["message"], len(tail)) == ("line 1199", job_log.SHOWN)
        assert len(asked) == 3
        with backdrop.writing() as session:
            writes.log(session, job, "one more")
        asked.clear()
        tail, more = job_log.newest(api, job)
    assert (tail[-1]["message"], more) == ("one more", total + 1)
    assert len(asked) == 1, "the full pages before the last are not read again"


def test_a_failed_run_leads_to_its_log(backdrop: Backdrop, ids: Ids, open_page: Open):
    job = backdrop.call("GET", f"/trainings/{ids['broken']}")["job_id"]
    at = open_page(backdrop.url, "/training", id=ids["broken"])
    assert any(link.proto.label == "Log" and job in link.proto.query_string for link in at.get("page_link"))
    assert "Log, " in "".join(c.value for c in open_page(backdrop.url, "/jobs", id=job).caption)


def test_no_page_script_holds_a_bare_string_which_streamlit_would_show():
    for path in sorted((Path(dashboard.__file__).parent / "views").glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        bare = [s.lineno for s in body[1:] if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
        assert bare == [], f"{path.name}, lines {bare}"
