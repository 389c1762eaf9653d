"""Lists and logs: found by words, filtered, ordered; a log that follows and fetches only what is new."""

import ast
from pathlib import Path
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import streamlit as st

import dashboard
from backend.store import tables as t
from backend.store import writes
from dashboard.client import Api
from dashboard.parts import job_log
from dashboard.parts.run_lists import PER_PAGE
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


def test_jobs_are_read_page_by_page_and_an_opened_one_keeps_its_page(empty: Backdrop, open_page: Open):
    with empty.writing() as session:
        for n in range(2 * PER_PAGE + 1):
            stamp = f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}+00:00"
            session.add(t.Job(id=f"job_{n}", kind="scan", subject_id="models", status="succeeded", created_at=stamp))
    at, seen = open_page(empty.url, "/jobs", status="succeeded"), []
    for turn in range(3):
        rows = tables(at)["Jobs"]["rows"]
        seen += [row["id"] for row in rows]
        if turn == 1:
            query = parse_qs(urlsplit(rows[0]["href"]).query)
            assert query == {"id": [rows[0]["id"]], "status": ["succeeded"], "after": [at.query_params["after"]]}
        if turn < 2:
            next(b for b in at.button if b.label == "Next").click().run()
    assert seen == [f"job_{n}" for n in reversed(range(2 * PER_PAGE + 1))]
    next(b for b in at.button if b.label == "Previous").click().run()
    assert tables(at)["Jobs"]["rows"][0]["id"] == f"job_{PER_PAGE}"
    next(s for s in at.selectbox if s.label == "Status").set_value("").run()
    assert "after" not in at.query_params, "a page belongs to the list that was asked for"


def test_lists_offer_the_tags_in_use_but_not_the_ids_of_studies(backdrop: Backdrop, ids: Ids, open_page: Open):
    tagged = f"/analyses/{ids['analysis']}"
    before = backdrop.call("GET", tagged)["tags"]
    backdrop.call("PATCH", tagged, json={"tags": ["pilot", "stu_0123456789ab"]})
    try:
        at = open_page(backdrop.url, "/analysis", tag="pilot")
        assert [row["id"] for row in tables(at)["Analyses"]["rows"]] == [ids["analysis"]]
        assert next(s for s in at.selectbox if s.label == "Tag").options == ["any", "pilot  (1)"]
        at = open_page(backdrop.url, "/analysis", tag="stu_0123456789ab")
        assert [row["id"] for row in tables(at)["Analyses"]["rows"]] == [ids["analysis"]]
        assert "No analysis matches" in words(open_page(backdrop.url, "/analysis", tag="pilo"))
    finally:
        backdrop.call("PATCH", tagged, json={"tags": before})


def test_a_deleted_run_is_listed_on_request_and_restored_from_its_page(backdrop: Backdrop, ids: Ids, open_page: Open):
    other = backdrop.evaluate(ids["dataset"], ids["set"], n_random=2, name="Another")
    backdrop.call("DELETE", f"/evaluations/{other}")
    rows = tables(open_page(backdrop.url, "/evaluation", status="deleted"))["Evaluations"]["rows"]
    assert other in {row["id"] for row in rows}
    at = open_page(backdrop.url, "/evaluation", id=other)
    assert "hidden from every list" in words(at)
    next(b for b in at.button if b.label == "Restore").click().run()
    assert backdrop.call("GET", f"/evaluations/{other}")["deleted_at"] is None
    assert "hidden from every list" not in words(at)
    backdrop.call("DELETE", f"/evaluations/{other}")  # the backdrop is shared


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
