import pytest

from backend.domain.vocabulary import Site
from tests.backend import seeding
from tests.backend.api.calls import Api


@pytest.fixture
def document(api: Api) -> dict:
    return api.client.get("/openapi.json").json()


def examples(document: dict, path: str) -> list[dict]:
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return document["components"]["schemas"][reference.rpartition("/")[2]]["examples"]


def test_every_example_works_when_pasted(api: Api, engine, document: dict):
    """Ids and model names are the server's own: those alone are replaced."""
    seeding.add_model(engine, sites=tuple(Site(layer, f"l{layer}", 8, 2) for layer in (0, 1)))
    tried = 0
    dataset = api.dataset(20, response="So")["id"]
    for example in examples(document, "/api/v1/analyses"):
        created = api.post("/analyses", 202, json=example | {"dataset_id": dataset, "model": "tiny"})
        tried += 1
    plan = seeding.measure(engine, created["id"])
    assert plan.batches
    path = "/api/v1/analyses/{analysis_id}/expert-sets"
    for example in examples(document, path):
        experts = api.post(f"/analyses/{created['id']}/expert-sets", 201, json=example)
        tried += 1
    for example in examples(document, "/api/v1/analyses/{analysis_id}/statistics"):
        api.post(f"/analyses/{created['id']}/statistics", 202, json=example)
        tried += 1
    for example in examples(document, "/api/v1/comparisons"):
        sides = {"analysis_a": created["id"], "analysis_b": created["id"]}
        api.post("/comparisons", 202 if example.get("intervals") else 201, json=example | sides)
        tried += 1
    for example in examples(document, "/api/v1/trainings"):
        ids = {"analysis_id": created["id"]} | ({"expert_set_id": experts["id"]} if "expert_set_id" in example else {})
        training = api.post("/trainings", 202, json=example | ids)
        tried += 1
    for example in examples(document, "/api/v1/evaluations"):
        ids = {"model": "tiny", "dataset_id": dataset}
        ids |= {"expert_set_id": experts["id"]} if "expert_set_id" in example else {}
        evaluation = api.post("/evaluations", 202, json=example | ids)
        tried += 1
    seeding.evaluate(engine, evaluation["id"])
    for example in examples(document, "/api/v1/evaluations/{evaluation_id}/answers/{n}/overrule"):
        api.post(f"/evaluations/{evaluation['id']}/answers/0/overrule", json=example)
        tried += 1
    for example in examples(document, "/api/v1/analyses/{analysis_id}/context"):
        api.post(f"/analyses/{created['id']}/context", 202, json=example)
        tried += 1
    unseen = api.dataset(30, name="unseen", response="So")["id"]
    for example in examples(document, "/api/v1/studies"):
        ids = {"analysis_id": created["id"]} | ({"expert_set_id": experts["id"]} if "expert_set_id" in example else {})
        evaluation = {"evaluation": example["evaluation"] | {"dataset_id": unseen}}
        api.post("/studies", 202, json=example | ids | evaluation)
        tried += 1
    patches = document["components"]["schemas"]["RunnablePatch"]["examples"]
    for example in patches:
        api.call("PATCH", f"/trainings/{training['id']}", json=example)
        tried += 1
    assert tried >= 12


def test_every_operation_says_what_it_does_and_how_it_fails(document: dict):
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            assert operation.get("description"), f"{verb} {path}"
            if path != "/health":
                assert {"401", "403", "404", "409", "422"} <= set(operation["responses"]), f"{verb} {path}"
                schema = operation["responses"]["422"]["content"]
                assert schema["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), f"{verb} {path}"


def test_every_request_body_refuses_unknown_fields(document: dict):
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Create", "Patch", "In")):
            assert schema["additionalProperties"] is False, name


def test_long_work_answers_202_and_takes_a_key(document: dict):
    starting = (
        "/analyses",
        "/analyses/{analysis_id}/resume",
        "/analyses/{analysis_id}/statistics",
        "/statistics/{statistics_id}/resume",
        "/trainings",
        "/trainings/{training_id}/resume",
        "/evaluations",
        "/evaluations/{evaluation_id}/resume",
        "/analyses/{analysis_id}/context",
        "/context/{context_id}/resume",
        "/models/scan",
    )
    for path in starting:
        operation = document["paths"][f"/api/v1{path}"]["post"]
        assert "202" in operation["responses"], path
        assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]], path


def test_the_document_asks_for_the_token_everywhere_but_at_health(document: dict):
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    open_paths = [
        path for path, verbs in document["paths"].items() for one in verbs.values() if one.get("security") == []
    ]
    assert open_paths == ["/health"]


def test_the_reference_page_loads_nothing_from_elsewhere(api: Api):
    page = api.client.get("/docs", headers={"Authorization": ""})
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/analyses", 405),
        ("GET", "/analyses?limit=501", 422),
        ("GET", "/jobs?limit=0", 422),
    ],
)
def test_every_error_is_a_problem_document(api: Api, method: str, path: str, status: int):
    answer = api.client.request(method, f"/api/v1{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail", "errors"}
    if status == 405:
        assert answer.headers["allow"] == "GET, POST"
