"""Studies on screen: the empty list, the form, one that runs, one with its answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from backend.store.engine import shared_engine
from tests.backend import playing, seeding
from tests.dashboard.backdrop import MODEL, Backdrop, serve
from tests.dashboard.conftest import Open
from tests.dashboard.reading import plots, tables, words


def upload(backdrop: Backdrop, name: str, rows: list[dict[str, Any]]) -> str:
    files = {"file": (f"{name}.jsonl", seeding.jsonl(rows))}
    form = {"name": name, "label_meaning": "harmless_harmful"}
    return str(backdrop.call("POST", "/datasets", files=files, data=form)["id"])


def prepared(backdrop: Backdrop) -> dict[str, Any]:
    """Store what a study needs; return its body."""
    backdrop.scan()
    analysis = backdrop.analyse(upload(backdrop, "analysed", seeding.prompt_rows(16)), batch_size=8, name="Small")
    rule = {"name": "strongest", "method": "top_k", "k": 3}
    chosen = backdrop.call("POST", f"/analyses/{analysis}/expert-sets", json=rule)["id"]
    asked = [
        {"prompt": f"{what} {i}?", "label": label, "response": "So."}
        for i in range(6)
        for label, what in (("safe", "Where is town"), ("unsafe", "How is lock"))
    ]
    evaluation = {"dataset_id": upload(backdrop, "asked", asked), "n_random": 2, "load_matched": False}
    return {"analysis_id": analysis, "expert_set_id": chosen, "seeds": [0, 1, 2], "evaluation": evaluation}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backdrop, str, str]]:
    """The API with a finished study and one that still trains."""
    with serve(tmp_path_factory.mktemp("study")) as backdrop:
        body = prepared(backdrop)
        engine = shared_engine(backdrop.settings.tables_url)
        done, running = (
            backdrop.call("POST", "/studies", json=body | {"name": name})["id"] for name in ("Done", "Half")
        )
        playing.play(engine, done)
        playing.begin(engine, running, 0)
        yield backdrop, done, running


def test_the_empty_list_says_what_a_study_is_and_what_comes_first(empty: Backdrop, open_page: Open) -> None:
    said = words(open_page(empty.url, "/study"))
    assert "No study yet" in said
    assert "Whichever way it comes out" in said
    assert "No expert set yet" in said


def test_a_finished_study_answers_first_and_shows_every_run(played: tuple[Backdrop, str, str], open_page: Open) -> None:
    backdrop, id_, _ = played
    found = backdrop.call("GET", f"/studies/{id_}")
    at = open_page(backdrop.url, "/study", id=id_)
    said = words(at)
    for verdict in found["result"]["verdicts"]:
        assert verdict["text"].replace("'", "&#x27;") in said
    assert "At best" not in said
    assert "is not shown to be none" in said
    drawn = plots(at)
    assert len(drawn) == 1 + len(found["result"]["measures"])
    pairs = [t for t in drawn[0]["traces"] if t["refs"]]
    assert [t["refs"] for t in pairs] == [[0, 1, 2], [3, 4, 5]]
    loss = next(m for m in found["result"]["measures"] if m["key"] == "final_loss")
    dots = [t["x"] for t in drawn[1]["traces"] if t["refs"]]
    assert dots == [loss["arms"][arm]["values"] for arm in ("preserved", "shuffled")]
    shown = tables(at)
    rows = shown["Runs, Loss in the last epoch"]["rows"]
    assert [row["href"] for row in rows] == [
        f"/training?id={run['ids']['training']}" for run in found["result"]["runs"]
    ]
    assert len(shown["Runs of this study"]["rows"]) == 25
    assert len(shown["Pairs of seeds"]["rows"]) == 6


def test_a_running_study_shows_how_far_its_runs_are(played: tuple[Backdrop, str, str], open_page: Open) -> None:
    backdrop, _, id_ = played
    at = open_page(backdrop.url, "/study", id=id_)
    said = words(at)
    assert "0 of 25 runs" in said
    assert "The answers appear when every run is done" in said
    rows = tables(at)["Runs of this study"]["rows"]
    assert [row["cells"]["status"]["t"] for row in rows].count("not made yet") == 18
    listed = tables(open_page(backdrop.url, "/study"))["Studies"]["rows"]
    assert {row["cells"]["name"]["t"]: row["cells"]["runs"]["t"] for row in listed} == {
        "Done": "25 / 25",
        "Half": "0 / 25",
    }


def test_what_a_study_lacks_is_said_as_a_note_and_no_fault_of_whoever_opened_the_form(
    empty: Backdrop, open_page: Open
) -> None:
    body = prepared(empty)
    at = open_page(empty.url, "/study", set=body["expert_set_id"])
    asked = next(box for box in at.selectbox if box.label.startswith("Prompts to ask"))
    asked.select(next(one for one in asked.options if one.startswith("analysed"))).run()
    said = words(at)
    assert "None of the 32 prompts is new" in said
    assert "“Only prompts that nothing has used”" in said
    assert "Invalid input" not in said
    assert next(b for b in at.button if b.label == "Start the study").disabled


def test_the_form_says_how_large_the_study_would_be_and_starts_it(empty: Backdrop, open_page: Open) -> None:
    body = prepared(empty)
    at = open_page(empty.url, "/study", set=body["expert_set_id"])
    at.number_input[0].set_value(2).run()
    said = words(at)
    assert "17 runs: 4 trainings" in said
    assert "With 2 seeds the smallest p for a difference in level is 0.500" in said
    next(b for b in at.button if b.label == "Start the study").click().run()
    [made] = empty.call("GET", "/studies")["items"]
    assert made["params"]["seeds"] == [0, 1]
    assert made["model"] == MODEL
