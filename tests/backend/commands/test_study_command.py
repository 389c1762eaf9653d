from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from backend.cli import app
from backend.commands.data import _export_path
from backend.commands.study import split_rows
from backend.domain.errors import InvalidInput

rows = st.lists(
    st.fixed_dictionaries(
        {
            "row_id": st.uuids().map(str),
            "label": st.sampled_from(["safe", "unsafe"]),
            "group": st.none() | st.sampled_from([f"g{i}" for i in range(30)]),
        }
    ),
    min_size=1,
    max_size=80,
    unique_by=lambda row: row["row_id"],
)


@given(rows, st.floats(0.05, 0.9), st.none() | st.integers(32, 60))
def test_no_prompt_and_no_group_is_both_measured_and_asked(
    found: list[dict[str, Any]], held_out: float, most: int | None
) -> None:
    try:
        measured, asked = split_rows(found, held_out, most)
    except InvalidInput:
        return
    ids = [row["row_id"] for row in (*measured, *asked)]
    assert len(ids) == len(set(ids)) <= (most or len(found))
    if most is None:
        assert len(ids) == len(found)
    groups = [{row["group"] for row in own} - {None} for own in (measured, asked)]
    assert not groups[0] & groups[1]
    assert split_rows(found[::-1], held_out, most) == (measured, asked)


def test_the_share_that_is_kept_for_evaluation_is_the_one_that_was_asked_for() -> None:
    found = [{"row_id": str(i), "label": "safe" if i % 2 else "unsafe", "group": None} for i in range(2000)]
    _, asked = split_rows(found, 0.25, None)
    for label in ("safe", "unsafe"):
        n = sum(row["label"] == label for row in asked)
        assert 200 < n < 300
    assert len(split_rows(found, 0.25, 100)[0]) + len(split_rows(found, 0.25, 100)[1]) == 100


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "Name the prompts"),
        (["--demo", "--dataset", "{file}"], "Name the prompts"),
        (["--dataset", "{file}", "--label", "safe", "--label", "unsafe"], "1 files and 2 labels"),
        (["--demo", "-o", "out.pdf"], "end it in .html or .md"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(tmp_path: Path, arguments: list[str], word: str) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,label\na,safe\n")
    result = CliRunner().invoke(app, ["study", *(one.format(file=file) for one in arguments)])
    assert isinstance(result.exception, InvalidInput)
    assert word in str(result.exception)


def test_a_study_is_exported_as_a_report_only() -> None:
    assert _export_path("stu_1", "md", "prompt", "mean", None) == ("studies/stu_1/report", {"format": "md"})
    with pytest.raises(InvalidInput, match="exported as a report"):
        _export_path("stu_1", "csv", "prompt", "mean", None)
