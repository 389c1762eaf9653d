import json
from typing import Any

import pytest

from backend.api.formats import table_response
from tests.backend import seeding
from tests.backend.api.calls import Api


@pytest.fixture
def path(api: Api, engine) -> str:
    seeding.add_model(engine)
    created = api.analysis()
    seeding.measure(engine, created["id"])
    return f"/analyses/{created['id']}/expert-sets"


def upload(content: Any, name: str = "config.json") -> dict[str, Any]:
    return {"file": (name, content if isinstance(content, bytes) else json.dumps(content).encode())}


@pytest.mark.parametrize("form", ["esft", "json"])
def test_an_exported_set_comes_back_with_the_same_experts_and_its_source(api: Api, path: str, form: str):
    first = api.post(path, 201, json={"method": "top_k", "k": 3})
    exported = api.client.get(f"/api/v1/expert-sets/{first['id']}", params={"format": form}).content
    made = api.post(f"{path}/import", 201, files=upload(exported), data={"name": "from elsewhere"})
    assert made["experts"] == first["experts"]
    assert made["name"] == "from elsewhere"
    assert made["rule"]["method"] == "manual"
    assert made["rule"]["source"]["file"] == "config.json"
    assert len(made["rule"]["source"]["sha256"]) == 64
    assert api.get(f"/expert-sets/{made['id']}") == made
    assert api.post(f"{path}/import", 200, files=upload(exported), data={"name": "from elsewhere"}) == made


def test_an_imported_set_can_be_trained_and_its_identity_is_verified(api: Api, engine, path: str):
    made = api.post(f"{path}/import", 201, files=upload({"experts": {"1": [0], "3": [2]}}))
    body = {"analysis_id": made["analysis_id"], "expert_set_id": made["id"]}
    training = api.post("/trainings", 202, json=body)
    links = {one["name"]: one for one in api.post(f"/trainings/{training['id']}/verify")["links"]}
    assert next(one for name, one in links.items() if name.startswith("expert set"))["ok"]


def test_the_same_as_a_json_body(api: Api, path: str):
    config = {"experts": {"1": [0, 2]}, "shared_experts": False, "non_expert_modules": False}
    made = api.post(f"{path}/import", 201, json={"config": config, "name": "by request"})
    assert made["experts"] == [[1, 0], [1, 2]]
    assert made["rule"]["source"]["file"] == "request body"
    tried = api.post(f"{path}/import?dry_run=true", json={"config": config})
    assert (tried["id"], tried["n_experts"]) == (None, 2)


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        ({"files": upload({"experts": {"1": [4]}})}, "expert 4"),
        ({"files": upload({"experts": {"2": [0]}})}, "layer 2"),
        ({"files": upload({"experts": {"1": [0]}, "shared_experts": True})}, "shared_experts"),
        ({"files": upload(b"\xff")}, "not JSON"),
        ({"files": upload(b'{"experts": {"1": [0]}, "note": NaN}')}, "NaN"),
        ({"files": upload(b'{"experts": {"1": [0]}, "note": "\\ud800"}')}, "Unicode"),
        ({"data": {"name": "no file"}, "files": {"other": ("x", b"y")}}, "`file`"),
        ({"files": upload({"experts": {"1": [0]}}), "data": {"name": "\x00"}}, "NUL"),
        ({"json": {"config": {"experts": {"1": [0]}}, "kind": "per_batch"}}, "kind"),
        ({"json": {"config": [1]}}, "config"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, "JSON"),
    ],
)
def test_a_file_that_is_no_expert_set_of_this_model_is_refused_with_the_reason(api: Api, path: str, sent, word: str):
    refused = api.post(f"{path}/import", 422, **sent)
    assert word in json.dumps(refused)
    assert api.get("/expert-sets")["items"] == []


def test_a_set_comes_in_where_only_answers_were_counted(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis(scopes=["response"], max_new_tokens=4)["id"]
    seeding.measure(engine, analysis)
    made = api.post(f"/analyses/{analysis}/expert-sets/import", 201, files=upload({"experts": {"1": [0]}}))
    assert made["rule"]["scope"] == "response"


def test_a_broken_form_is_said_to_be_one(api: Api, path: str):
    assert (
        "boundary"
        in api.post(f"{path}/import", 400, content=b"x", headers={"Content-Type": "multipart/form-data"})["detail"]
    )


def test_csv_text_that_a_spreadsheet_would_run_is_made_inert_and_numbers_are_not_touched():
    import numpy as np

    columns = {"text": np.array(["=1+1", "@x", "-2", "plain"]), "number": np.array([-1.5, 2, -3, 4])}
    text = table_response(columns, "csv", "x").body.decode()
    assert text.splitlines()[1:] == ["'=1+1,-1.5", "'@x,2.0", "'-2,-3.0", "plain,4.0"]
