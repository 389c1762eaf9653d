"""The list of prompt sets, as good as the lists of runs: found, renamed, deleted with undo, or for good."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import tables, words

PROMPTS = b"prompt,label\nhow to %d,safe\nhow not to %d,unsafe\n"


def store(empty: Backdrop, name: str, n: int = 0) -> str:
    form = {"name": name, "label_meaning": "harmless_harmful"}
    return str(empty.call("POST", "/datasets", files={"file": ("p.csv", PROMPTS % (n, n))}, data=form)["id"])


def names(at: AppTest) -> list[str]:
    return [row["cells"]["name"]["t"] for row in tables(at).get("Prompt sets", {"rows": []})["rows"]]


def click(at: AppTest, label: str) -> None:
    next(b for b in at.button if b.label == label).click().run()
    assert not at.exception, at.exception


def test_prompt_sets_are_found_by_name_and_tag_and_ordered(empty: Backdrop, open_page: Open):
    made = {name: store(empty, name, n) for n, name in enumerate(("beta", "alpha", "gamma"))}
    empty.call("PATCH", f"/datasets/{made['beta']}", json={"tags": ["pilot", "b"]})
    assert names(open_page(empty.url, "/datasets")) == ["gamma", "alpha", "beta · pilot, b"]
    assert names(open_page(empty.url, "/datasets", sort="name")) == ["alpha", "beta · pilot, b", "gamma"]
    assert names(open_page(empty.url, "/datasets", q="LPH")) == ["alpha"]
    at = open_page(empty.url, "/datasets", tag="b")
    assert names(at) == ["beta · pilot, b"]
    assert next(s for s in at.selectbox if s.label == "Tag").options == ["any", "b  (1)", "pilot  (1)"]
    assert "No prompt set matches" in words(open_page(empty.url, "/datasets", q="nothing like it"))
    assert "No prompt set yet" not in words(at)


def test_more_prompt_sets_than_a_page_holds_are_paged(
    empty: Backdrop, open_page: Open, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dashboard.parts.run_lists.PER_PAGE", 2)
    for n in range(5):
        store(empty, f"set {n}", n)
    at, seen = open_page(empty.url, "/datasets"), []
    for _ in range(3):
        seen.append(names(at))
        if len(seen) < 3:
            click(at, "Next")
    assert seen == [["set 4", "set 3"], ["set 2", "set 1"], ["set 0"]]
    assert "1 prompt set on this page, the last" in words(at)


def test_a_prompt_set_is_renamed_deleted_with_undo_and_restored_from_its_page(empty: Backdrop, open_page: Open):
    made = store(empty, "before")
    at = open_page(empty.url, "/datasets", id=made)
    next(t for t in at.text_input if t.label == "Name").set_value("after")
    next(t for t in at.text_area if t.label == "Notes").set_value("from a <b>paper</b>")
    click(at, "Save")
    assert empty.call("GET", f"/datasets/{made}")["name"] == "after"
    assert "from a <b>paper</b>" in [text.value for text in at.text], "notes are shown as text, not as HTML"
    click(at, "Delete")
    assert "Deleted “after”" in words(at)
    assert empty.call("GET", "/datasets")["items"] == []
    click(at, "Undo")
    assert at.query_params["id"] == made
    click(at, "Delete")
    assert names(open_page(empty.url, "/datasets", status="deleted")) == ["after"]
    at = open_page(empty.url, "/datasets", id=made)
    assert not [b for b in at.button if b.label in ("Start an analysis", "Save", "Delete")]
    click(at, "Restore")
    assert [one["id"] for one in empty.call("GET", "/datasets")["items"]] == [made]
    assert [b for b in at.button if b.label == "Start an analysis"]


def test_a_prompt_set_that_is_used_stays_and_says_by_what(empty: Backdrop, open_page: Open):
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    empty.analyse(dataset, batches=1, name="my study")
    for label in ("Delete", "Delete these prompts for good"):
        at = open_page(empty.url, "/datasets", id=dataset)
        click(at, label)
        assert "my study" in words(at)
    assert [one["id"] for one in empty.call("GET", "/datasets")["items"]] == [dataset]


def test_prompts_are_deleted_for_good_on_request(empty: Backdrop, open_page: Open):
    at = open_page(empty.url, "/datasets", id=store(empty, "gone"))
    click(at, "Delete these prompts for good")
    assert empty.call("GET", "/datasets", params={"deleted": True})["items"] == []
    assert "Undo" not in [b.label for b in at.button]
