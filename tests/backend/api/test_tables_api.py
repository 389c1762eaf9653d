"""Every route that returns a table gives it as CSV and Parquet too, whole and with the same numbers."""

import csv
import io
import math
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.backend import seeding
from tests.backend.api.calls import Api


@pytest.fixture
def ids(api: Api, engine) -> dict[str, str]:
    seeding.add_model(engine)
    analysis = api.analysis()
    plan = seeding.measure(engine, analysis["id"], non_finite=(2,))
    chosen = api.post(f"/analyses/{analysis['id']}/expert-sets", 201, json={"method": "top_k", "k": 2})
    training = api.post("/trainings", 202, json={"analysis_id": analysis["id"], "expert_set_id": chosen["id"]})
    seeding.train(engine, training["id"], plan)
    return {"analysis": analysis["id"], "training": training["id"]}


@pytest.mark.parametrize(
    "path", ["/analyses/{analysis}/batches", "/analyses/{analysis}/experts", "/trainings/{training}/steps"]
)
def test_a_list_comes_whole_as_csv_and_parquet(api: Api, ids: dict[str, str], path: str):
    address = path.format(**ids)
    items = api.get(address, params={"limit": 500})["items"]
    assert items
    answer = api.client.get(f"/api/v1{address}", params={"format": "csv", "limit": 1})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    content = api.client.get(f"/api/v1{address}", params={"format": "parquet", "limit": 1}).content
    columns = pq.read_table(io.BytesIO(content)).to_pydict()
    assert len(rows) == len(items)
    for place, item in enumerate(items):
        for name, value in item.items():
            assert plain(rows[place][name]) == plain(value), name
            assert plain(columns[name][place]) == plain(value), name


def plain(value: Any) -> Any:
    """Return a number as float, a flag as 0 or 1, other text as it is, and every way of writing no value as None."""
    if value in (None, "", "nan"):
        return None
    try:
        return None if math.isnan(float(value)) else float(value)
    except ValueError:
        return {"True": 1.0, "False": 0.0}.get(value, value)


def test_a_table_of_nothing_is_refused_with_the_reason(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis()["id"]
    assert "not measured" in api.get(f"/analyses/{analysis}/experts?format=csv", 409)["detail"]
    assert api.get(f"/analyses/{analysis}/experts")["items"] == []
