"""How an import is answered: by the request itself, or by a child that goes on behind the answer."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from fastapi.responses import Response

from backend.api.edge import Edge
from backend.api.idempotency import json_answer
from backend.api.schemas.common import Progress
from backend.api.schemas.datasets import DatasetOut
from backend.domain.errors import ImportRefused, RouteprintError, RowProblem
from backend.importing import check, describe
from backend.orders import Json, Said
from backend.store import datasets, imports
from backend.store import tables as t

log = logging.getLogger(__name__)

MANY_ROWS = 50_000
"""Above this, the rows land behind the answer, which is 202."""


def show(dataset: t.Dataset) -> DatasetOut:
    """Return a prompt set as the API shows it."""
    names = [name for name in DatasetOut.model_fields if name != "progress"]
    return DatasetOut.model_validate(
        {name: getattr(dataset, name) for name in names} | {"progress": _progress(dataset)}
    )


def _progress(dataset: t.Dataset) -> Progress:
    """Tell how many rows are stored; the rest is taken to go as fast as those did."""
    eta = None
    if dataset.status == "running" and dataset.stored:
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(dataset.created_at)).total_seconds()
        eta = round(max(elapsed, 0.0) / dataset.stored * (dataset.n_rows - dataset.stored), 1)
    stage = "storing rows" if dataset.status == "running" else ""
    return Progress(done=dataset.stored, total=dataset.n_rows, eta_seconds=eta, stage=stage)


def imported_here(edge: Edge, order: Json, stack: ExitStack) -> Response:
    """Import small files. stack: what must stay until every row is stored."""
    checked = check(order)
    dataset, is_new = imports.store(edge.engine, order["name"], checked, describe(checked, order["origins"]))
    if not is_new or dataset.status == "succeeded":
        return _answer(edge, dataset.id, is_new=is_new)
    kept = stack.pop_all()

    def fill() -> None:
        with kept, _failing(edge, dataset.id):
            imports.fill(edge.engine, dataset.id, checked.rows(), stopped=lambda: edge.children.is_stopping)

    if dataset.n_rows <= MANY_ROWS:
        fill()
    else:
        edge.children.later(fill)
    return _answer(edge, dataset.id, is_new=True)


def imported_by_child(edge: Edge, order: Json, stack: ExitStack) -> Response:
    """Import large files: every row is checked before the answer; the rows of a large set land behind it."""
    child = edge.children.start(order, stack)
    said, value = child.hear()
    if said is Said.REFUSED:
        raise ImportRefused([RowProblem(*problem) for problem in value])
    if said is Said.FOUND:
        return _answer(edge, value["id"], is_new=False)
    kept = stack.pop_all()

    def finish() -> None:
        with kept, _failing(edge, value["id"]):
            child.hear()

    if value["n_rows"] <= MANY_ROWS:
        finish()
    else:
        edge.children.later(finish)
    return _answer(edge, value["id"], is_new=True)


def purge_later(edge: Edge, dataset_ids: Sequence[str]) -> None:
    """Take away the rows of deleted and failed sets, one set after the other, in a thread of its own."""

    def purge() -> None:
        for dataset_id in dataset_ids:
            imports.purge(edge.engine, dataset_id, stopped=lambda: edge.children.is_stopping)

    if dataset_ids:
        edge.children.later(purge)


@contextmanager
def _failing(edge: Edge, dataset_id: str) -> Iterator[None]:
    """End a set as failed, with the reason, if its rows cannot be stored."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, RouteprintError) else f"{type(error).__name__}; the log says more"
        log.exception("the import of %s failed", dataset_id)
        imports.fail(edge.engine, dataset_id, imports.CUT_OFF if edge.children.is_stopping else reason)
        imports.purge(edge.engine, dataset_id, stopped=lambda: edge.children.is_stopping)


def _answer(edge: Edge, dataset_id: str, *, is_new: bool) -> Response:
    with edge.reading() as session:
        dataset = datasets.get(session, dataset_id)
        if dataset.status == "failed":
            raise RouteprintError(f"The import failed: {dataset.error}")
        done = 201 if is_new else 200
        return json_answer(done if dataset.status == "succeeded" else 202, show(dataset))
