import json
from pathlib import Path

from tests.faults import record
from tests.faults.record import Case


def tried(name: str, **found: int) -> Case:
    return Case(name, "how | why", tries=3, **found)


def test_a_case_holds_only_if_something_was_tried_and_nothing_lost_doubled_or_let_in() -> None:
    assert record.row(tried("a"), passed=True)["holds"]
    assert not record.row(tried("a"), passed=False)["holds"]
    assert not record.row(Case("a", "how"), passed=True)["holds"]
    for name in ("lost", "doubled", "let_in"):
        assert not record.row(tried("a", **{name: 1}), passed=True)["holds"]


def test_one_case_replaces_its_own_line_and_keeps_all_others(tmp_path: Path) -> None:
    path = tmp_path / "reliability.json"
    for case in (tried("b", lost=2), tried("a"), Case("c", "how", attack=True, tries=9), tried("b")):
        with case.recovering():
            pass
        record.write(path, record.merged(record.read(path), record.row(case, passed=True)))
    rows = json.loads(path.read_text())
    assert [(one["case"], one["lost"], one["recovery_seconds"]) for one in rows] == [
        ("b", 0, 0),
        ("a", 0, 0),
        ("c", 0, 0),
    ]
    page = path.with_suffix(".md").read_text()
    assert "3 of 3 cases hold." in page
    assert "| b | 3 | 0 | 0 | 0.0 | yes |" in page
    assert "how \\| why" in page


def test_the_record_that_comes_with_us_names_each_case_once_and_its_page_is_made_from_it() -> None:
    path = Path(__file__).parents[1] / "docs" / "reliability.json"
    rows = record.read(path)
    assert len({one["case"] for one in rows}) == len(rows)
    if rows:
        page = path.with_suffix(".md").read_text()
        assert all(one["case"] in page for one in rows)
