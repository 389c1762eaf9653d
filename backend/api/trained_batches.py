"""The batches of a training: how far each one's loss fell, what goes with that, and its samples over the epochs."""

import math
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import ALL, FILES, RowsFormat, rows_response
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing
from backend.api.schemas.trained_batches import (
    ExplanationOut,
    FigureOut,
    LossWord,
    SampleLossesOut,
    SampleVisitRow,
    TrainedBatchDetailOut,
    TrainedBatchOut,
    TrainedBatchRow,
    VisitOut,
)
from backend.domain.explanation.explain import ALPHA, Explanation
from backend.domain.explanation.features import BY_KEY
from backend.domain.explanation.outliers import LIMIT
from backend.domain.explanation.saying import VERDICTS, findings, method
from backend.store import runs, trained_batches
from backend.store import tables as t
from backend.store.paging import slice_page

router = APIRouter(prefix="/trainings/{training_id}", tags=["trainings"], responses=PROBLEMS)

Sort = Literal[
    "batch_idx",
    "fall",
    "-fall",
    "relative_fall",
    "-relative_fall",
    "loss_first",
    "-loss_first",
    "loss_last",
    "-loss_last",
    "z",
    "-z",
    "max_abs_risk_diff",
    "-max_abs_risk_diff",
    "set_abs_risk_diff",
    "-set_abs_risk_diff",
    "set_load",
    "-set_load",
    "prompt_tokens",
    "-prompt_tokens",
    "answer_tokens",
    "-answer_tokens",
]
SORTS: tuple[str, ...] = get_args(Sort)
Which = Annotated[LossWord, Query(description="The loss of all answers of a batch, or of one label's.")]
Seed = Annotated[int, Query(ge=0, le=2**31 - 1, description="Of the permutations.")]


def _training(session: Session, training_id: str) -> t.Training:
    return runs.get(session, t.Training, training_id)


@router.get("/batches", response_model=Listing[TrainedBatchOut], responses=FILES)
def get_all(
    here: Here,
    training_id: PathId,
    page: Paged,
    sort: Annotated[Sort, Query(description="-: largest first. What is not known comes last.")] = "batch_idx",
    loss: Which = "all",
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """List every batch of a training with its losses so far. 409 where batches were not preserved."""
    after, limit = (page.after(int), page.limit) if format == "json" else (None, ALL)
    with here.reading() as session:
        found = trained_batches.batches_of(session, _training(session, training_id), loss, 0)
    rows = _sorted(trained_batches.rows_of(found), sort)
    if format != "json":
        plain = [TrainedBatchRow.model_validate(_known(row)) for row in rows]
        return rows_response(plain, TrainedBatchRow, format, f"batches-{training_id}-{loss}")
    return listing(slice_page(rows, after, limit), lambda row: TrainedBatchOut.model_validate(_known(row)))


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with null for NaN, in files too."""
    return {name: None if _nan(value) else value for name, value in row.items()} | {
        "losses": [None if _nan(loss) else loss for loss in row["losses"]]
    }


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _sorted(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    key = sort.removeprefix("-")
    sign = -1 if sort.startswith("-") else 1
    return sorted(rows, key=lambda row: (_nan(row[key]), 0 if _nan(row[key]) else sign * row[key], row["batch_idx"]))


@router.get("/explanation", response_model=ExplanationOut, responses=FILES)
def get_explanation(
    here: Here,
    training_id: PathId,
    loss: Which = "all",
    seed: Seed = 0,
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """Say what goes with the fall of the batches' losses, beyond their first loss and place in the run.

    One family of p-values per answer: looking at `all`, `safe` and `unsafe` in turn is three families. A file holds the
    figures alone. 409 where batches were not preserved.
    """
    with here.reading() as session:
        training = _training(session, training_id)
        found = trained_batches.batches_of(session, training, loss, seed)
        scope = session.get_one(t.Analysis, training.analysis_id).params["scopes"][0]
    why = found.explanation
    figures = [_figure(figure) for figure in why.figures]
    if format != "json":
        return rows_response(figures, FigureOut, format, f"explanation-{training_id}-{loss}")
    return ExplanationOut.model_validate(
        {
            "training_id": training_id,
            "outcome": why.outcome,
            "loss": loss,
            "scope": scope,
            "n_complete": why.n_complete,
            "n_batches": len(found.planned),
            "n_used": len(why.batches),
            "reason": why.reason,
            "controls": list(why.controls),
            "n_permutations": why.n_permutations,
            "seed": seed,
            "alpha": ALPHA,
            "smallest_p": why.smallest_p,
            "outlier_limit": LIMIT,
            "figures": figures,
            "unusual": _unusual(why),
            "left_out": [{"batch_idx": batch_idx, "reason": reason} for batch_idx, reason in why.left_out],
            "findings": findings(why),
            "method": method(why),
        }
    )


def _figure(figure: Any) -> FigureOut:
    names = ("rho", "p", "p_family", "rho_beyond", "p_beyond", "p_family_beyond")
    numbers = {name: None if _nan(getattr(figure, name)) else getattr(figure, name) for name in names}
    feature = BY_KEY[figure.key]
    return FigureOut(
        key=figure.key,
        name=feature.name,
        what=feature.what,
        verdict=figure.verdict.value,
        verdict_words=VERDICTS[figure.verdict],
        n_distinct=figure.n_distinct,
        **numbers,
    )


def _unusual(why: Explanation) -> list[dict[str, Any]]:
    """Return the unusual batches, the farthest first."""
    if why.rests is None:
        return []
    more, less = ("better", "worse") if why.outcome == "fall" else ("harder", "easier")
    rows = [
        {
            "batch_idx": int(why.batches[place]),
            "value": float(why.outcome_values[place]),
            "expected": float(why.rests.expected[place]),
            "z": float(why.rests.z[place]),
            "side": more if why.rests.z[place] > 0 else less,
        }
        for place in why.rests.unusual.nonzero()[0]
    ]
    return sorted(rows, key=lambda row: -abs(row["z"]))


@router.get("/batches/{batch_idx}", response_model=TrainedBatchDetailOut, responses=FILES)
def get_one(
    here: Here,
    training_id: PathId,
    batch_idx: SmallIndex,
    loss: Which = "all",
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """Return one batch of a training: every visit, and the loss of every sample at each. A file has a line for each."""
    with here.reading() as session:
        training = _training(session, training_id)
        planned = trained_batches.planned_batch(session, training, batch_idx)
        steps = trained_batches.steps_of(session, training_id, batch_idx)
        if format != "json":
            return rows_response(_lines(steps), SampleVisitRow, format, f"losses-{training_id}-batch-{batch_idx}")
        found = trained_batches.batches_of(session, training, loss, 0)
        facts = trained_batches.sample_facts(session, training, batch_idx)
    losses = {s.in_batch_idx: [_loss_of(step, s.in_batch_idx) for step in steps] for s in planned.samples}
    samples = [_sample(s, losses[s.in_batch_idx], facts.get(s.in_batch_idx, {})) for s in planned.samples]
    return TrainedBatchDetailOut.model_validate(
        _known(trained_batches.rows_of(found)[batch_idx])
        | {
            "training_id": training_id,
            "analysis_id": training.analysis_id,
            "visits": [VisitOut.model_validate(step, from_attributes=True) for step in steps],
            "samples": samples,
        }
    )


def _loss_of(step: t.TrainingStep, in_batch_idx: int) -> float | None:
    return next((s["loss"] for s in step.samples if s["in_batch_idx"] == in_batch_idx), None)


def _sample(sample: Any, losses: list[float | None], facts: dict[str, Any]) -> SampleLossesOut:
    first, last = (losses[0], losses[-1]) if len(losses) > 1 else (None, None)
    return SampleLossesOut(
        in_batch_idx=sample.in_batch_idx,
        row_id=sample.row_id,
        label=sample.label.value,
        prompt_tokens=facts.get("prompt_tokens"),
        answer_tokens=facts.get("answer_tokens"),
        target=facts.get("target"),
        losses=losses,
        fall=None if first is None or last is None else first - last,
    )


def _lines(steps: list[t.TrainingStep]) -> list[SampleVisitRow]:
    names = ("in_batch_idx", "row_id", "label", "loss")
    return [
        SampleVisitRow.model_validate({name: s[name] for name in names} | {"epoch": step.epoch, "step": step.step})
        for step in steps
        for s in step.samples
    ]
