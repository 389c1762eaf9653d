import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain import risk_tables
from backend.domain.errors import ImportRefused, InvalidInput
from backend.domain.pickled_tables import read_table
from backend.domain.risk_tables import rates_of, read_risk_table, table_columns
from backend.domain.vocabulary import Label

PUBLISHED = Path(__file__).parent / "pickles" / "pandas-2.2-protocol-5.pkl"


def steermoe(n_layers: int, n_experts: int, seed: int = 0) -> list[dict[str, Any]]:
    """A table as SteerMoE's notebook writes it: d counts the tokens that an expert did not take."""
    rng = np.random.default_rng(seed)
    rows = []
    for layer in range(n_layers):
        for expert in range(n_experts):
            n1, n2 = 290, 190
            a1, a2 = int(rng.integers(0, n1 + 1)), int(rng.integers(0, n2 + 1))
            row = {"layer": layer, "expert": expert, "a1": float(a1), "a2": float(a2), "d1": n1 - a1, "d2": n2 - a2}
            rows.append(row | {"risk_diff": a1 / n1 - a2 / n2})
    return rows


def write(folder: Path, rows: list[dict[str, Any]], form: str = "csv") -> Path:
    path = folder / f"table.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, **more: Any) -> Any:
    return read_risk_table(path, path.name, **more)


def risk_diff(table: Any) -> np.ndarray:
    safe, unsafe = rates_of(table.counts, table.tokens)
    return unsafe - safe


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_our_risk_diff_is_the_published_one_with_the_opposite_sign(tmp_path: Path, form: str) -> None:
    rows = steermoe(3, 5)
    table = read(write(tmp_path, rows[::-1], form))
    stated = np.array([row["risk_diff"] for row in rows]).reshape(3, 5)
    np.testing.assert_allclose(risk_diff(table), -stated, atol=1e-12)
    assert (table.denominator, table.stated) == ("rest", "safe − unsafe")
    assert table.layers == (0, 1, 2)
    assert table.n_mismatched == 0
    assert table.reasons == {}


def test_a_table_out_of_a_pickle_that_pandas_wrote_reads_the_same(tmp_path: Path) -> None:
    found = read_table(PUBLISHED.read_bytes())
    columns = {name: own.tolist() for name, own in found.columns.items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    table = read(write(tmp_path, rows))
    for row in rows:
        assert risk_diff(table)[int(row["layer"]), int(row["expert"])] == pytest.approx(-row["risk_diff"])


def test_a_table_whose_d_is_all_tokens_is_recognised_by_what_it_states(tmp_path: Path) -> None:
    rows = [row | {"d1": 290, "d2": 190} for row in steermoe(2, 4)]
    table = read(write(tmp_path, rows))
    assert table.denominator == "tokens"
    np.testing.assert_allclose(risk_diff(table).ravel(), [-row["risk_diff"] for row in rows])


def test_the_original_scripts_table_has_our_sign(tmp_path: Path) -> None:
    rows = [
        {"layer": r["layer"], "expert": r["expert"], "a_safe": r["a1"], "a_unsafe": r["a2"], "d_safe": r["d1"]}
        | {"d_unsafe": r["d2"], "risk_diff": -r["risk_diff"]}
        for r in steermoe(2, 4)
    ]
    table = read(write(tmp_path, rows))
    np.testing.assert_allclose(risk_diff(table).ravel(), [row["risk_diff"] for row in rows])
    assert table.stated == "unsafe − safe"


def test_a_table_of_which_group_1_is_unsafe_is_turned(tmp_path: Path) -> None:
    path = write(tmp_path, steermoe(2, 4))
    np.testing.assert_allclose(risk_diff(read(path, group_1=Label.UNSAFE)), -risk_diff(read(path)))
    assert read(path, group_1=Label.UNSAFE).stated == "unsafe − safe"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_our_own_pooled_columns_come_back_as_they_were(tmp_path_factory, n_layers: int, n_experts: int, seed: int):
    folder = tmp_path_factory.mktemp("t")
    table = read(write(folder, steermoe(n_layers, n_experts, seed)))
    columns = table_columns(table.layers, table.counts, table.tokens)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    again = read(write(folder, rows))
    assert again.sha256 == table.sha256
    assert again.denominator == "tokens"


def test_the_identity_is_the_counts_and_not_how_they_are_written(tmp_path: Path) -> None:
    rows = steermoe(2, 3)
    first = read(write(tmp_path, rows)).sha256
    assert read(write(tmp_path, rows[::-1], "parquet")).sha256 == first
    assert read(write(tmp_path, [row | {"risk_diff": ""} for row in rows])).sha256 == first
    assert (
        read(
            write(tmp_path, [rows[0] | {"a1": rows[0]["a1"] + 1, "d1": rows[0]["d1"] - 1, "risk_diff": ""}, *rows[1:]])
        ).sha256
        != first
    )


def test_what_has_no_tokens_or_no_count_is_null_and_says_why(tmp_path: Path) -> None:
    rows = steermoe(2, 3)
    rows[0] |= {"a1": 0, "d1": 0, "risk_diff": "nan"}
    rows[1] |= {"a2": "NaN", "risk_diff": ""}
    table = read(write(tmp_path, rows[:-1]))
    missing = np.isnan(risk_diff(table))
    assert missing.tolist() == [[True, True, False], [False, False, True]]
    assert table.reasons == {"not in the table": 1, "a count is missing or NaN": 1, "no tokens on one side": 1}


def test_stated_values_that_fit_in_neither_sign_refuse_the_import_by_row(tmp_path: Path) -> None:
    rows = steermoe(2, 3)
    rows[3] |= {"risk_diff": rows[3]["risk_diff"] + 0.01}
    with pytest.raises(ImportRefused) as caught:
        read(write(tmp_path, rows))
    assert [problem.row for problem in caught.value.problems] == [4]
    assert "counts" in caught.value.problems[0].message
    assert read(write(tmp_path, rows), accept_mismatch=True).n_mismatched == 1


def test_one_row_of_the_other_sign_is_a_mismatch_and_not_a_second_sign(tmp_path: Path) -> None:
    rows = steermoe(2, 3)
    rows[2] |= {"risk_diff": -rows[2]["risk_diff"]}
    with pytest.raises(ImportRefused) as caught:
        read(write(tmp_path, rows))
    assert [problem.row for problem in caught.value.problems] == [3]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"a1": -1}, "a1"),
        ({"a1": 1.5}, "a1"),
        ({"d2": "many"}, "d2"),
        ({"d2": "inf"}, "d2"),
        ({"a2": 1e300}, "a2"),
        ({"layer": -1}, "layer"),
        ({"layer": ""}, "layer"),
        ({"expert": 0.5}, "expert"),
        ({"expert": 1e9}, "expert"),
        ({"risk_diff": "x"}, "risk_diff"),
    ],
)
def test_what_is_no_count_is_refused_with_its_row_and_column(tmp_path: Path, change: dict, column: str) -> None:
    rows = steermoe(2, 2)
    rows[2] |= change
    with pytest.raises(ImportRefused) as caught:
        read(write(tmp_path, rows))
    assert (caught.value.problems[0].row, caught.value.problems[0].column) == (3, column)


def test_an_expert_that_is_there_twice_is_refused_with_both_rows(tmp_path: Path) -> None:
    rows = steermoe(1, 3)
    with pytest.raises(ImportRefused, match="row 1 already"):
        read(write(tmp_path, [*rows, rows[0]]))


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([{"layer": 0, "expert": 0, "risk_diff": 1}], "columns"),
        ([{"layer": 0, "expert": 0, "a1": 0, "a2": 0, "d1": 0, "d2": 0}], "tokens on both sides"),
        ([{"layer": i * 1000, "expert": 99_000, "a1": 1, "a2": 1, "d1": 1, "d2": 1} for i in range(20)], "more than"),
    ],
)
def test_a_file_that_is_no_risk_table_is_refused(tmp_path: Path, rows: list, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        read(write(tmp_path, rows))


def test_a_pickle_is_never_opened_and_the_way_to_convert_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="convert-table"):
        read_risk_table(PUBLISHED, PUBLISHED.name)


def test_a_table_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk_tables, "MAX_ROWS", 7)
    with pytest.raises(InvalidInput, match="more than 7 rows"):
        read(write(tmp_path, steermoe(2, 4)))
