import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from backend.cli import app
from backend.domain.vocabulary import Site
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.domain.test_risk_tables import PUBLISHED, steermoe


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def send(api: Api, rows: list[dict[str, Any]], status: int = 201, name: str = "published", **form: Any) -> Any:
    return api.post("/risk-tables", status, files={"file": ("t.csv", csv_bytes(rows))}, data={"name": name} | form)


def test_a_published_table_is_stored_once_and_read_in_our_sign(api: Api):
    rows = steermoe(2, 4)
    made = send(api, rows, model="OLMoE", safe_means="refuses")
    assert made["id"].startswith("rt_")
    assert (made["n_rows"], made["layers"], made["n_experts"]) == (8, [0, 1], 4)
    assert made["label_meaning"] == {"safe": "refuses", "unsafe": "unsafe"}
    assert made["reading"]["stated"] == "safe − unsafe"
    assert made["file"]["name"] == "t.csv"
    assert send(api, rows, 200) == made
    assert api.get("/risk-tables")["items"] == [api.get(f"/risk-tables/{made['id']}")] == [made]
    risk = api.get(f"/risk-tables/{made['id']}/risk-diff")
    np.testing.assert_allclose(np.ravel(risk["risk_diff"]), [-row["risk_diff"] for row in rows])
    assert risk["max_abs"] == pytest.approx(max(abs(row["risk_diff"]) for row in rows))
    api.call("DELETE", f"/risk-tables/{made['id']}", 204)
    api.get(f"/risk-tables/{made['id']}", 404)


def test_the_table_comes_as_csv_parquet_and_npy_with_the_same_numbers(api: Api):
    rows = steermoe(2, 3)
    rows[4] |= {"d1": 0, "a1": 0, "risk_diff": ""}
    made = send(api, rows)
    path = f"/api/v1/risk-tables/{made['id']}/risk-diff"
    whole = np.array(api.get(path.removeprefix("/api/v1"))["risk_diff"], dtype=float)
    assert np.isnan(whole[1, 1])
    npy = np.load(io.BytesIO(api.client.get(f"{path}?format=npy").content), allow_pickle=False)
    parquet = pq.read_table(io.BytesIO(api.client.get(f"{path}?format=parquet").content)).to_pydict()
    text = api.client.get(f"{path}?format=csv").text.splitlines()
    np.testing.assert_array_equal(npy, whole)
    np.testing.assert_array_equal(np.array(parquet["risk_diff"], dtype=np.float64), whole.ravel())  # null: NaN
    assert text[0].startswith("layer,expert,count_safe")
    assert len(text) == 7
    first = api.client.get(path)
    assert api.client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_what_is_wrong_in_a_table_is_said_by_row(api: Api):
    rows = steermoe(2, 3)
    rows[1] |= {"a1": "x"}
    rows[4] |= {"d2": -4}
    refused = send(api, rows, 422)
    assert [error["loc"][3:] for error in refused["errors"]] == [[2, "a1"], [5, "d2"]]
    pickle = api.post("/risk-tables", 422, files={"file": ("t.pkl", PUBLISHED.read_bytes())}, data={"name": "x"})
    assert "convert-table" in pickle["detail"]


def test_a_table_is_checked_against_the_model_of_an_analysis(api: Api, engine):
    seeding.add_model(engine, sites=tuple(Site(layer, f"l{layer}", 4, 2) for layer in (1, 3)))
    analysis = api.analysis()["id"]
    refused = send(api, steermoe(2, 4), 422, analysis_id=analysis)
    assert "no MoE layer 0" in refused["detail"]
    assert "layer_numbers=position" in refused["detail"]
    made = send(api, steermoe(2, 4), analysis_id=analysis, layer_numbers="position")
    assert made["layers"] == [1, 3]
    assert "expert 4" in send(api, steermoe(2, 5), 422, analysis_id=analysis, layer_numbers="position")["detail"]
    assert "2 MoE layers" in send(api, steermoe(3, 4), 422, analysis_id=analysis, layer_numbers="position")["detail"]
    assert "analysis_id" in send(api, steermoe(3, 4), 422, layer_numbers="position")["detail"]


def test_our_own_pooled_csv_comes_back_the_same_and_the_mean_is_refused_by_row(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis()["id"]
    seeding.measure(engine, analysis)
    for pool, status in (("pooled", 201), ("mean", 422)):
        content = api.client.get(f"/api/v1/analyses/{analysis}/risk-diff?format=csv&pool={pool}").content
        made = api.post("/risk-tables", status, files={"file": ("t.csv", content)}, data={"name": pool})
        if status == 201:
            ours = api.get(f"/analyses/{analysis}/risk-diff", params={"pool": pool})["risk_diff"]
            np.testing.assert_allclose(api.get(f"/risk-tables/{made['id']}/risk-diff")["risk_diff"], ours, atol=1e-12)
        else:
            assert "counts" in json.dumps(made["errors"])


def test_an_old_pickle_becomes_a_table_by_the_offline_converter_alone(api: Api, tmp_path: Path):
    out = tmp_path / "new.csv"
    answer = CliRunner().invoke(app, ["convert-table", str(PUBLISHED), str(out)])
    assert answer.exit_code == 0, answer.output
    assert "Layer_Expert" in answer.output
    made = api.post("/risk-tables", 201, files={"file": ("new.csv", out.read_bytes())}, data={"name": "old"})
    assert made["n_rows"] == 8
    again = CliRunner().invoke(app, ["convert-table", str(PUBLISHED), str(out)])
    assert "exists already" in str(again.exception)
