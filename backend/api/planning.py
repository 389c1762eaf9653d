"""Planning at the edge: a small set's batches in the request itself, a large one's in a child."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from backend.api.edge import Edge
from backend.domain.batches import plan_batches
from backend.domain.errors import PlanImpossible
from backend.domain.plan import PlanSettings
from backend.orders import Said
from backend.planning import plan_order
from backend.store import datasets
from backend.store import tables as t
from backend.store.plans import Frozen

MANY_ROWS = 20_000
"""Above this, a child plans: so many rows take the request itself a quarter of a second."""


def planned(edge: Edge, dataset: t.Dataset, settings: PlanSettings) -> Frozen:
    """Plan a prompt set. Raises PlanImpossible."""
    if dataset.n_rows <= MANY_ROWS:
        with edge.reading() as session:
            rows = datasets.plan_rows(session, dataset.id)
        return Frozen.of(plan_batches(rows, dataset.sha256, settings))
    edge.scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        out = Path(stack.enter_context(TemporaryDirectory(dir=edge.scratch))) / "plan"
        order = plan_order(edge.settings.tables_url, dataset.id, dataset.sha256, settings, out)
        said, value = edge.children.start(order, stack).hear()
        if said is Said.IMPOSSIBLE:
            raise PlanImpossible(value["message"], value["loc"])
        return Frozen(out.read_bytes(), value["digest"], value["summary"], value["settings"])
