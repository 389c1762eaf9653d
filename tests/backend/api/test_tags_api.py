"""Lists by exact tag, and the tags there are to choose from."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from backend.store import runs, tags
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api

LISTS = ("analyses", "comparisons", "datasets", "evaluations", "studies", "trainings")
ODD = ["a", "A", "ab", 'a"b', "\\", '\\"', "%", "_", "ä", "日本", "[]", "seed 0", "é", "é", "1", "null"]


def studies(engine, tagged: list[list[str]]) -> None:
    """Store a run for each of these lists of tags: 0 is the oldest."""
    counts = dict.fromkeys(("n_rows", "n_safe", "n_unsafe", "n_duplicates"), 0)
    with writing(engine) as session:
        session.query(t.Evaluation).delete()
        if session.get(t.Dataset, "ds_1") is None:
            session.add(t.Dataset(id="ds_1", name="n", sha256="0" * 64, label_meaning={}, files=[], **counts))
            session.flush()
        more = {"name": "n", "model_id": "m", "dataset_id": "ds_1", "intervention": "none", "params": {}}
        more |= {"overlap": {}, "warnings": [], "texts": [], "model_digests": {}}
        for n, own in enumerate(tagged):
            session.add(t.Evaluation(id=f"ev_{n}", tags=own, created_at=f"2026-01-01T00:{n:08d}", **more))


def by_tag(session, tag: str, limit: int = 100):
    return runs.listing(
        session, t.Evaluation, status=None, q=None, deleted=False, after=None, limit=limit, tag=tag
    ).items


@given(
    st.lists(
        st.lists(
            st.sampled_from(ODD) | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1),
            unique=True,
        ),
        max_size=6,
    )
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_those_with_the_very_tag_are_listed_and_counted(engine, tagged: list[list[str]]):
    studies(engine, tagged)
    with reading(engine) as session:
        counted = dict(tags.in_use(session, t.Evaluation))
        assert set(counted) == {tag for own in tagged for tag in own}
        for tag in {*counted, *ODD}:
            found = [int(run.id[3:]) for run in by_tag(session, tag)]
            assert found == [n for n in reversed(range(len(tagged))) if tag in tagged[n]]
            assert counted.get(tag, 0) == len(found)


def test_a_list_by_tag_reads_no_more_rows_than_it_shows(engine):
    studies(engine, [["rare"] if n % 100 == 0 else ["usual"] for n in range(1000)])
    read: list[str] = []

    @event.listens_for(t.Evaluation, "load")
    def count(run: t.Evaluation, _context: object) -> None:
        read.append(run.id)

    try:
        with reading(engine) as session:
            assert [run.id for run in by_tag(session, "rare", 5)] == [f"ev_{n}" for n in (900, 800, 700, 600, 500)]
        assert len(read) == 6  # and one more, to know whether there is a next page
        read.clear()
        with reading(engine) as session:
            assert tags.in_use(session, t.Evaluation) == [("usual", 990), ("rare", 10)]
        assert read == []
    finally:
        event.remove(t.Evaluation, "load", count)


def test_tags_to_choose_from_are_those_of_what_is_not_deleted(api: Api, engine):
    seeding.add_model(engine)
    dataset = api.dataset()["id"]
    first, second = (api.analysis(dataset, seed=seed)["id"] for seed in (0, 1))
    api.call("PATCH", f"/analyses/{first}", json={"tags": ["pilot", "b"]})
    api.call("PATCH", f"/analyses/{second}", json={"tags": ["b"]})
    assert api.get("/tags", params={"of": "analyses"})["items"] == [{"tag": "b", "n": 2}, {"tag": "pilot", "n": 1}]
    page = api.get("/tags", params={"of": "analyses", "limit": 1})
    rest = api.get("/tags", params={"of": "analyses", "cursor": page["next_cursor"]})
    assert [one["tag"] for one in page["items"] + rest["items"]] == ["b", "pilot"]
    api.post(f"/analyses/{first}/cancel")
    api.call("DELETE", f"/analyses/{first}", 204)
    assert api.get("/tags", params={"of": "analyses"})["items"] == [{"tag": "b", "n": 1}]
    assert [one["id"] for one in api.get("/analyses", params={"tag": "b"})["items"]] == [second]
    assert [one["id"] for one in api.get("/analyses", params={"tag": "b", "deleted": True})["items"]] == [first]
    api.get("/analyses", 422, params={"tag": "x" * 61})
    api.get("/tags", 422, params={"of": "jobs"})


def test_statistics_and_context_runs_are_listed_by_tag_within_their_analysis(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset()["id"])["id"]
    seeding.measure(engine, analysis)
    for noun in ("statistics", "context"):
        made = api.post(f"/analyses/{analysis}/{noun}", 202, json={})["id"]
        api.call("PATCH", f"/{noun}/{made}", json={"tags": ["b"]})
        listed = {tag: api.get(f"/analyses/{analysis}/{noun}", params={"tag": tag})["items"] for tag in "ab"}
        assert ([one["id"] for one in listed["b"]], listed["a"]) == ([made], [])


@pytest.mark.parametrize("of", LISTS)
def test_every_list_takes_a_tag_and_has_tags_to_choose_from(api: Api, of: str):
    assert api.get(f"/{of}", params={"tag": "none"})["items"] == []
    assert api.get("/tags", params={"of": of}) == {"items": [], "next_cursor": None}
