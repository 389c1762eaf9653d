"""The routing of one sample against the counts that were stored, and its losses in the steps that used its batch."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from backend.api.app import create_app
from backend.domain.vocabulary import Site
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import make_engine, reading
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.api.conftest import TOKEN

UNEVEN = (Site(1, "model.layers.1.mlp", 4, 2), Site(3, "model.layers.3.a", 6, 3), Site(3, "model.layers.3.b", 4, 1))


@pytest.fixture(scope="module")
def seen(empty_home: Path, tmp_path_factory: pytest.TempPathFactory):
    """An analysis of 6 batches: 4 is not finite, 5 is not measured; its sites differ in size and share a layer."""
    home = tmp_path_factory.mktemp("routing") / "home"
    shutil.copytree(empty_home, home)
    settings = Settings(home=home, token=TOKEN)
    engine = make_engine(settings.tables_url)
    seeding.add_model(engine, sites=UNEVEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    api = Api(TestClient(create_app(settings), base_url="http://127.0.0.1:8321", headers=headers))
    created = api.analysis(api.dataset(12, response="So")["id"])
    seeding.measure(engine, created["id"], only=range(5), non_finite=(4,), finish=False)
    yield SimpleNamespace(api=api, id=created["id"], path=f"/analyses/{created['id']}", engine=engine)
    engine.dispose()


def routing(seen, batch: int, sample: int) -> str:
    return f"{seen.path}/batches/{batch}/samples/{sample}/routing"


def test_the_samples_of_a_batch_add_up_to_its_stored_counts(seen) -> None:
    with reading(seen.engine) as session:
        stored = session.get_one(t.BatchRouting, (seen.id, 2, "prompt"))
    for place, counts in enumerate(stored.counts):
        found = seen.api.get(routing(seen, 2, place))
        assert found["tokens"] == stored.tokens[place]
        assert found["layers"] == [1, 3, 3]
        rows = [[0 if n is None else n for n in row] for row in found["counts"]]
        assert np.array_equal(rows, counts)
        assert [sum(row) for row in rows] == [site.top_k * found["tokens"] for site in UNEVEN]
        assert found["counts"][0][4:] == [None, None], "a site has no more experts than its own"
        assert found["rates"][1] == [n / found["tokens"] for n in found["counts"][1]]


def test_the_files_hold_the_same_figures(seen) -> None:
    path = routing(seen, 1, 3)
    found = seen.api.get(path)
    csv = pcsv.read_csv(io.BytesIO(seen.api.get(path, params={"format": "csv"}).content)).to_pydict()
    parquet = pq.read_table(io.BytesIO(seen.api.get(path, params={"format": "parquet"}).content)).to_pydict()
    assert list(csv) == ["layer", "expert", "site", "count", "tokens", "rate"]
    assert csv == parquet
    assert csv["count"] == [n for row in found["counts"] for n in row if n is not None]
    npy = np.load(io.BytesIO(seen.api.get(path, params={"format": "npy"}).content))
    assert npy.sum() == sum(csv["count"])


def test_what_cannot_be_said_of_a_sample_has_its_reason(seen) -> None:
    planned = seen.api.get(routing(seen, 5, 0))
    assert (planned["counts"], planned["reason"]) == (None, "not measured yet")
    batch = seen.api.get(f"{seen.path}/batches/4")["samples"]
    bad = next(s["in_batch_idx"] for s in batch if s["non_finite"])
    fine = next(s["in_batch_idx"] for s in batch if not s["non_finite"])
    assert "not finite" in seen.api.get(routing(seen, 4, bad))["reason"]
    assert seen.api.get(routing(seen, 4, fine))["counts"], "one bad sample takes no other with it"
    refused = seen.api.client.get("/api/v1" + routing(seen, 5, 0), params={"format": "csv"})
    assert "not measured yet" in refused.json()["detail"]


@pytest.mark.parametrize(("batch", "sample", "said"), [(99, 0, "batch"), (0, 99, "sample in a batch of 4")])
def test_a_place_outside_the_plan_is_named(seen, batch: int, sample: int, said: str) -> None:
    answer = seen.api.client.get("/api/v1" + routing(seen, batch, sample))
    assert answer.status_code == 404
    assert said in answer.json()["detail"]


def test_an_answer_that_is_known_is_not_sent_again(seen) -> None:
    first = seen.api.client.get("/api/v1" + routing(seen, 0, 1))
    again = seen.api.client.get("/api/v1" + routing(seen, 0, 1), headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
