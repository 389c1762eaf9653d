"""A database with a run of every kind that refer to each other in every way, for tests of what deleting some does."""

from collections.abc import Iterable

from sqlalchemy import Engine, func, select, update

from backend.settings import Settings
from backend.store import purging
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import playing, seeding
from tests.backend.api.calls import Api

LONG_AGO = "2026-01-01T00:00:00.000000+00:00"


def delete_long_ago(engine: Engine, ids: Iterable[str]) -> None:
    with writing(engine) as session:
        for table in t.KEPT.values():
            session.execute(update(table).where(table.id.in_(list(ids))).values(deleted_at=LONG_AGO))


def rows(engine: Engine) -> dict[str, dict[str, int]]:
    """Return how many rows each run and prompt set has, its head among them: {id: {table: rows}}."""
    found: dict[str, dict[str, int]] = {}
    with reading(engine) as session:
        for kind, table in t.KEPT.items():
            for id_ in session.scalars(select(table.id)):
                places = purging.rows_of(purging.Going(kind, id_, ""))
                counts = {
                    at.name: session.scalar(select(func.count()).select_from(at).where(is_)) for at, is_ in places
                }
                found[id_] = {name: n for name, n in counts.items() if n} | {"head": 1}
    return found


def build(api: Api, engine: Engine, settings: Settings) -> dict[str, str]:
    """Store a study with its 17 runs on one analysis, and one run of every other kind over a second analysis."""
    seeding.add_model(engine)
    dataset = api.dataset(8, response="So")["id"]
    base, other = (api.analysis(dataset, name=name)["id"] for name in ("base", "other"))
    for id_ in (base, other):
        seeding.measure(engine, id_)
    own = {"dataset_id": dataset, "n_random": 2, "load_matched": False, "holdout": False}
    body = {"analysis_id": base, "rule": {"method": "top_k", "k": 2}, "seeds": [0, 1], "evaluation": own}
    study = api.post("/studies", 202, json=body)["id"]
    playing.play(engine, study)
    chosen = api.post(f"/analyses/{other}/expert-sets", 201, json={"method": "top_k", "k": 3})["id"]
    made = {"base": base, "other": other, "study": study, "chosen": chosen, "dataset": dataset}
    made["statistics"] = api.post(f"/analyses/{other}/statistics", 202, json={})["id"]
    made["context"] = api.post(f"/analyses/{other}/context", 202, json={})["id"]
    made["training"] = api.post("/trainings", 202, json={"analysis_id": base, "expert_set_id": chosen})["id"]
    made["comparison"] = api.post("/comparisons", 201, json={"analysis_a": base, "analysis_b": other})["id"]
    with writing(engine) as session:
        session.execute(update(t.Job).values(status="succeeded"))
        for table in t.RUNS.values():
            session.execute(update(table).values(status="succeeded"))
    folder = settings.artifacts_path / "trainings" / made["training"]
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.safetensors").write_bytes(b"x" * 100_000)
    return made
