"""What the runs of a study came to, read out of the tables and put side by side.

Not covered: the figures made from it (backend/domain/study), how a study runs (studies.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.canonical import digest
from backend.domain.errors import Conflict
from backend.domain.experts import expert_mask
from backend.domain.jobs import ACTIVE
from backend.domain.study.findings import findings
from backend.domain.study.outcomes import BEHAVIOUR, Arm, Outcome, Role, mean_loss
from backend.domain.study.verdict import verdicts
from backend.store import comparisons, evaluation_results, risks, trainings
from backend.store import tables as t

Ids = Mapping[tuple[str, str | None, int | None], str]


def compute(session: Session, study: t.Study) -> dict[str, Any]:
    """Return the result of a study whose runs have all succeeded, as plain JSON. Raises Conflict if one is missing."""
    ids = _ids(session, study)
    causal = session.get_one(t.Evaluation, ids[Role.CAUSAL, None, None])
    checked = evaluation_results.results(session, causal).summary
    outcomes = [
        _outcome(session, ids, Arm(str(arm)), int(seed or 0)) for role, arm, seed in ids if role == Role.TRAINING
    ]
    first = comparisons.with_matrices(session, next(id_ for (role, *_), id_ in ids.items() if role == Role.COMPARISON))
    base = {one["key"]: (one["baseline"] or {}).get("value") for one in checked}
    found = findings(outcomes, base, first.matrices[0].astype(np.float64).ravel())
    return found | {
        "causal": {"evaluation_id": causal.id, "measures": list(checked), "overlap": causal.overlap},
        "verdicts": verdicts(found, checked, causal.overlap),
        "runs": [
            {"arm": str(one.arm), "seed": one.seed, "ids": dict(one.ids), "figures": dict(one.figures)}
            for one in outcomes
        ],
        "epochs": study.params["training"]["epochs"],
    }


def record(session: Session, study_id: str, result: dict[str, Any]) -> bool:
    """Store the result of a study that is still wanted; False if it is not."""
    study = session.get_one(t.Study, study_id, with_for_update=True, populate_existing=True)
    if study.status not in ACTIVE:
        return False
    study.result, study.sha256 = result, digest(result)
    session.flush()
    return True


def _ids(session: Session, study: t.Study) -> Ids:
    r = t.StudyRun
    found: dict[tuple[str, str | None, int | None], str] = {}
    for child in session.scalars(select(r).where(r.study_id == study.id).order_by(r.n)):
        run = session.get(t.RUNS[child.kind], child.run_id) if child.run_id else None
        if run is None or run.status != "succeeded":
            raise Conflict(f"The {child.role} {child.arm or ''} {child.seed if child.arm else ''} has not succeeded.")
        found[child.role, child.arm, child.seed] = run.id
    return found


def _outcome(session: Session, ids: Ids, arm: Arm, seed: int) -> Outcome:
    own = {str(role): ids[role, str(arm), seed] for role in Role if role is not Role.CAUSAL}
    training = session.get_one(t.Training, own["training"])
    evaluation = session.get_one(t.Evaluation, own["evaluation"])
    comparison = comparisons.with_matrices(session, own["comparison"])
    steps = trainings.recorded(session, [training.id]).get(training.id) or trainings.Recorded()
    measured = {one["key"]: one for one in evaluation_results.results(session, evaluation).summary}
    before, after = comparison.matrices[:2].astype(np.float64)
    figures: dict[str, float | None] = {
        "final_loss": last_epoch_loss(session, training),
        "drift": comparison.result["drift"]["rms"],
        "set_change": _set_change(session, comparison, after - before),
    }
    figures |= {key: (measured[key]["baseline"] or {}).get("value") for key in BEHAVIOUR if key in measured}
    return Outcome(arm, seed, figures, after.ravel(), own, steps.n, steps.n_verified, training.target_digest)


def last_epoch_loss(session: Session, training: t.Training) -> float | None:
    """Return the mean over all samples of the loss that each had in its step of the last epoch."""
    s = t.TrainingStep
    query = select(s.samples).where(s.training_id == training.id, s.epoch == training.params["epochs"] - 1)
    return mean_loss([sample["loss"] for samples in session.scalars(query.order_by(s.step)) for sample in samples])


def _set_change(session: Session, comparison: t.Comparison, change: NDArray[np.float64]) -> float | None:
    """Return the mean change of risk_diff over the experts that were trained; None where all were."""
    learned = (comparison.result["trained"] or {}).get("experts")
    if not learned:
        return None
    sites = risks.sites_of(session.get_one(t.Analysis, comparison.side_b))
    own = change[expert_mask([(layer, expert) for layer, expert in learned], sites)]
    known = own[np.isfinite(own)]
    return float(known.mean()) if known.size else None
