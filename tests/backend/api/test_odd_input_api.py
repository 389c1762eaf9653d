import json
from typing import Any

import pytest

from tests.backend import seeding
from tests.backend.api.calls import Api

ODD = ["0", "-1", "9223372036854775808", "NaN", "%00", "%ED%A0%80", "..%2f..", "%F0%9F%99%82", "x" * 700]
ODD_JSON: list[Any] = [None, True, -1, 2**63, 1e308, "", "\x00", "\ud800", "x" * 50_000, [], [[1]], {"a": 1}]


@pytest.fixture
def ids(api: Api, engine) -> dict[str, str]:
    """One of everything, so that a request reaches the code behind the checks."""
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(4)["id"])
    plan = seeding.measure(engine, analysis["id"])
    experts = api.post(f"/analyses/{analysis['id']}/expert-sets", 201, json={"method": "top_k", "k": 2})
    training = api.post("/trainings", 202, json={"analysis_id": analysis["id"], "expert_set_id": experts["id"]})
    seeding.train(engine, training["id"], plan, steps=1)
    asked = {"n_permutations": 99, "n_resamples": 199, "n_stability": 10, "n_splits": 2}
    statistics = api.post(f"/analyses/{analysis['id']}/statistics", 202, json=asked)
    seeding.examine(engine, statistics["id"])
    body = {"model": "tiny", "dataset_id": analysis["dataset_id"], "expert_set_id": experts["id"], "n_random": 2}
    evaluation = api.post("/evaluations", 202, json=body)
    seeding.evaluate(engine, evaluation["id"])
    content = b"layer,expert,a1,a2,d1,d2\n1,0,1,2,3,4\n3,0,5,6,7,8\n"
    table = api.post("/risk-tables", 201, files={"file": ("t.csv", content)}, data={"name": "t"})
    comparison = api.post("/comparisons", 201, json={"analysis_a": analysis["id"], "analysis_b": analysis["id"]})
    context = api.post(f"/analyses/{analysis['id']}/context", 202, json={})
    seeding.read_in_context(engine, context["id"])
    body = {"analysis_id": analysis["id"], "expert_set_id": experts["id"], "evaluation": asked_of(analysis)}
    study = api.post("/studies", 202, json=body)
    return {
        "study_id": study["id"],
        "table_id": table["id"],
        "comparison_id": comparison["id"],
        "context_id": context["id"],
        "statistics_id": statistics["id"],
        "evaluation_id": evaluation["id"],
        "n": "0",
        "dataset_id": analysis["dataset_id"],
        "analysis_id": analysis["id"],
        "set_id": experts["id"],
        "training_id": training["id"],
        "job_id": training["job_id"],
        "batch_idx": "0",
        "in_batch_idx": "0",
        "layer": "1",
        "expert": "0",
        "step": "1",
    }


def asked_of(analysis: dict[str, Any]) -> dict[str, Any]:
    return {"dataset_id": analysis["dataset_id"], "holdout": False, "n_random": 2}


def check(answer: Any, what: object) -> None:
    assert answer.status_code < 500, (what, answer.text[:300])
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", what


def test_no_odd_value_in_an_address_makes_a_server_error(api: Api, ids: dict[str, str]):
    tried = 0
    for path, verbs in api.client.get("/openapi.json").json()["paths"].items():
        reads = verbs.get("get")
        if reads is None or path.endswith("/events"):
            continue
        for parameter in reads.get("parameters", []):
            for odd in ODD:
                filled = ids | ({parameter["name"]: odd} if parameter["in"] == "path" else {})
                address = path.format(**filled)
                query = f"?{parameter['name']}={odd}" if parameter["in"] == "query" else ""
                check(api.client.get(address + query), (path, parameter["name"], odd))
                tried += 1
    assert tried > 400


def test_no_odd_value_in_a_body_makes_a_server_error(api: Api, ids: dict[str, str]):
    bodies = {
        "/analyses": {"dataset_id": ids["dataset_id"], "model": "tiny", "batch_size": 4},
        "/evaluations": {"model": "tiny", "dataset_id": ids["dataset_id"], "expert_set_id": ids["set_id"]},
        f"/evaluations/{ids['evaluation_id']}/answers/0/overrule": {"verdict": "refused", "reason": "so", "by": "me"},
        "/studies": {
            "analysis_id": ids["analysis_id"],
            "expert_set_id": ids["set_id"],
            "evaluation": {"dataset_id": ids["dataset_id"], "holdout": False, "n_random": 1},
        },
        "/trainings": {"analysis_id": ids["analysis_id"], "expert_set_id": ids["set_id"]},
        f"/analyses/{ids['analysis_id']}/context": {"scope": "prompt"},
        f"/analyses/{ids['analysis_id']}/expert-sets": {"method": "threshold", "threshold": 0.1},
        "/comparisons": {"analysis_a": ids["analysis_id"], "analysis_b": ids["table_id"]},
        f"/analyses/{ids['analysis_id']}/statistics": {"n_permutations": 99},
    }
    document = api.client.get("/openapi.json").json()
    for path, body in bodies.items():
        general = path.replace(ids["analysis_id"], "{analysis_id}").replace(ids["evaluation_id"], "{evaluation_id}")
        documented = document["paths"][f"/api/v1{general.replace('/0/', '/{n}/')}"]["post"]
        reference = documented["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for field in document["components"]["schemas"][reference]["properties"]:
            for odd in ODD_JSON:
                content = json.dumps(body | {field: odd})
                answer = api.client.post(
                    f"/api/v1{path}?dry_run=true", content=content, headers={"Content-Type": "application/json"}
                )
                check(answer, (path, field, str(odd)[:40]))


@pytest.mark.parametrize("content", [b"\xff", b'{"a":' + b"[" * 100_000, b'{"model": NaN}', b"\xef\xbb\xbf{}"])
def test_no_odd_body_makes_a_server_error(api: Api, content: bytes):
    for kind in ("application/json", "text/plain", "multipart/form-data", "application/json; charset=utf-16"):
        check(
            api.client.post("/api/v1/analyses", content=content, headers={"Content-Type": kind}), (content[:20], kind)
        )
