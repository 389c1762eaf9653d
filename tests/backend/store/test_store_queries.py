import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backend.api.pagination import decode, encode
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.plan import PlanRow
from backend.domain.prompts import LabelMeaning, Message, PromptRow, RowOrigin, build_prompt_set
from backend.domain.vocabulary import Label
from backend.store import datasets, imports, jobs, runs
from backend.store import tables as t
from backend.store.caching import Recent
from backend.store.engine import make_engine, reading, writing
from backend.store.migrate import upgrade
from backend.store.paging import slice_page


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'tables.sqlite3'}"
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)
maybe = st.none() | texts


@st.composite
def prompt_sets(draw):
    rows = draw(
        st.lists(
            st.tuples(texts, texts, maybe, maybe, maybe, maybe), min_size=2, max_size=8, unique_by=lambda row: row[0]
        )
    )
    made = [
        PromptRow((Message("system", system), Message("user", prompt)), Label.SAFE if i % 2 else Label.UNSAFE, *rest)
        for i, (prompt, system, *rest) in enumerate(rows)
    ]
    return build_prompt_set(((RowOrigin("f", i), row) for i, row in enumerate(made)), LabelMeaning("other", "a", "b"))


@given(prompt_sets())
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_set_comes_back_as_it_was_stored(engine, prompts):
    with writing(engine) as session:
        stored = datasets.create(session, "any", prompts.sha256, prompts, [], "succeeded")
        datasets.add_rows(session, stored.id, datasets.row_values(prompts.rows))
    with reading(engine) as session:
        rows = datasets.rows(session, stored.id, None, None, None, 100).items
        planned = datasets.plan_rows(session, stored.id)
    names = ("label", "messages", "response", "category", "difficulty", "group", "source")
    again = [PromptRow.from_dict({name: getattr(row, name) for name in names}) for row in rows]
    assert again == list(prompts.rows)
    assert [row.row_id for row in rows] == [row.digest for row in prompts.rows]
    assert planned == [
        PlanRow(i, row.digest, row.label, row.category, row.difficulty, row.group) for i, row in enumerate(prompts.rows)
    ]


@given(st.lists(st.integers(0, 2**53 - 1) | texts, min_size=1, max_size=3))
def test_a_cursor_comes_back_as_the_key_it_was_made_of(key):
    assert decode(encode(tuple(key)), *(type(part) for part in key)) == tuple(key)


@given(st.text(max_size=60))
def test_no_text_but_a_cursor_is_taken_for_one(text: str):
    try:
        key = decode(text, str, int)
    except InvalidInput:
        return
    assert decode(encode(key), str, int) == key


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_pages_of_a_list_join_to_the_list(rows: list[int], limit: int):
    seen, after = [], None
    while True:
        page = slice_page(rows, after, limit)
        seen += page.items
        after = page.next_key
        if after is None:
            break
    assert seen == rows


def test_a_cache_keeps_what_was_used_last():
    cache, made = Recent[int](2), []

    def value(key: int) -> int:
        return cache.get(key, lambda: made.append(key) or key)

    assert [value(key) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]


def test_a_cache_never_waits_for_a_slow_value():
    cache, release = Recent[str](4), threading.Event()
    slow = threading.Thread(target=lambda: cache.get("slow", lambda: release.wait(10) and "slow"))
    slow.start()
    assert cache.get("quick", lambda: "quick") == "quick"
    release.set()
    slow.join()


def test_a_cache_keeps_so_much_in_all_and_always_the_last_one():
    cache = Recent[str](5, len)

    def made(*keys: str) -> list[str]:
        anew: list[str] = []
        assert [cache.get(key, lambda key=key: anew.append(key) or key) for key in keys] == list(keys)
        return anew

    assert made("aa", "bbb", "aa", "bbb") == ["aa", "bbb"]
    assert made("cc", "bbb", "aa") == ["cc", "aa"], "the one used longest ago makes room"
    assert made("too large for it", "too large for it") == ["too large for it"]
    assert made("bbb", "aa", "bbb") == ["bbb", "aa"]


def test_of_threads_that_want_one_value_one_makes_it_and_after_a_failure_the_next():
    cache, made, begun = Recent[int](4), [], threading.Barrier(6)

    def make() -> int:
        made.append(1)
        time.sleep(0.05)
        if len(made) == 1:
            raise ValueError("not this time")
        return 7

    def want() -> int | str:
        begun.wait(10)
        try:
            return cache.get("key", make)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        found = [one.result() for one in [pool.submit(want) for _ in range(6)]]
    assert sorted(found, key=str) == [7] * 5 + ["not this time"]
    assert len(made) == 2


def run(session, status: str = "queued") -> t.Analysis:
    dataset = t.Dataset(
        id=t.new_id("ds"),
        name="d",
        sha256="0",
        label_meaning={},
        n_rows=0,
        n_safe=0,
        n_unsafe=0,
        n_duplicates=0,
        files=[],
    )
    session.add(dataset)
    session.flush()
    analysis = t.Analysis(
        id=t.new_id("an"),
        name="study",
        status=status,
        dataset_id=dataset.id,
        model_id="m",
        engine="transformers",
        params={},
        plan_digest="",
        plan_summary={},
        sites=[],
        model_digests={},
    )
    session.add(analysis)
    session.flush()
    return analysis


@pytest.mark.parametrize("status", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_what_can_be_cancelled_and_resumed_follows_from_the_status_alone(engine, status: str):
    for action, allowed in (("cancel", {"queued", "running"}), ("resume", {"failed", "cancelled"})):
        with writing(engine) as session:
            analysis = run(session, status)
            job = jobs.add(session, "analysis", analysis.id)
            call = (
                (lambda a=analysis: jobs.cancel(session, t.Analysis, a.id))
                if action == "cancel"
                else (lambda a=analysis: jobs.resume(session, "analysis", a.id))
            )
            if status in allowed:
                found = call()
                session.expire_all()
                assert analysis.status == ("cancelled" if action == "cancel" else "queued")
                assert found == [job.id] if action == "cancel" else found.status == "queued"
            else:
                with pytest.raises(Conflict, match=status):
                    call()


def test_a_deleted_run_is_not_resumed(engine):
    with writing(engine) as session:
        analysis = run(session, "failed")
        runs.remove(session, t.Analysis, analysis.id)
        with pytest.raises(Conflict, match="undelete"):
            jobs.resume(session, "analysis", analysis.id)


def test_an_import_that_was_cut_off_says_so_and_its_rows_are_removed(engine):
    prompts = build_prompt_set(
        (
            (RowOrigin("f", i), PromptRow((Message("user", f"cut {label}"),), label))
            for i, label in enumerate((Label.SAFE, Label.UNSAFE))
        ),
        LabelMeaning("other", "a", "b"),
    )
    with writing(engine) as session:
        cut = datasets.create(session, "cut off", prompts.sha256, prompts, [], "running")
        datasets.add_rows(session, cut.id, datasets.row_values(prompts.rows))
    assert imports.fail_unfinished(engine) == ["cut off"]
    assert list(imports.to_purge(engine)) == [cut.id]
    imports.purge(engine, cut.id)
    assert list(imports.to_purge(engine)) == []
    with reading(engine) as session:
        assert session.get(t.PromptRow, (cut.id, 0)) is None
        kept = datasets.get(session, cut.id)
        assert (kept.status, kept.stored, kept.error) == ("failed", 0, imports.CUT_OFF)
        with pytest.raises(Conflict, match="import the files again"):
            datasets.get_ready(session, cut.id)
