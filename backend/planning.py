"""Planning the batches of a large prompt set, in a child of the API.

The plan of a million prompts takes ten seconds and hundreds of megabytes as objects; its stored form comes back, in a
file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.domain.batches import plan_batches
from backend.domain.errors import PlanImpossible
from backend.domain.plan import PlanSettings
from backend.orders import Json, Said
from backend.store import datasets
from backend.store.engine import make_engine, reading
from backend.store.plans import packed


def plan_order(tables_url: str, dataset_id: str, sha256: str, settings: PlanSettings, out: Path) -> Json:
    """Return the order to plan a set into the file `out`."""
    return {
        "verb": "plan",
        "tables_url": tables_url,
        "dataset_id": dataset_id,
        "sha256": sha256,
        "settings": settings.to_dict(),
        "out": str(out),
    }


def plan(order: Json) -> Iterator[tuple[Said, Any]]:
    """Plan, write the stored form into the file of the order, and tell what else is stored of it."""
    engine = make_engine(order["tables_url"])
    with reading(engine) as session:
        rows = datasets.plan_rows(session, order["dataset_id"])
    engine.dispose()
    try:
        made = plan_batches(rows, order["sha256"], PlanSettings.from_dict(order["settings"]))
    except PlanImpossible as error:
        yield Said.IMPOSSIBLE, {"message": str(error), "loc": list(error.loc)}
        return
    del rows
    with Path(order["out"]).open("wb") as file:
        file.writelines(packed(made))
    yield Said.PLANNED, {"digest": made.digest, "summary": made.summary(), "settings": made.settings.to_dict()}
