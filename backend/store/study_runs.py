"""The runs of a study that need a trained model: measured on the same plan, asked the same prompts, compared.

Not covered: when they are made and queued (studies.py).
"""

from collections.abc import Mapping

from sqlalchemy.orm import Session

from backend.domain.errors import Conflict
from backend.domain.evaluation import prompts as asking
from backend.domain.evaluation.interventions import Family, Intervention
from backend.domain.study.outcomes import Arm, Role
from backend.store import analyses, comparisons, evaluations, models, plans, runs
from backend.store import tables as t
from backend.store.evaluations import TRAINED

_DIGESTS = ("weights", "tokenizer", "template")


def child_name(study_name: str, arm: Arm | str | None, seed: int | None) -> str:
    """Return what a run of a study is called."""
    what = "causal check" if arm is None else f"{arm}, seed {seed}"
    return f"{study_name[:160]}: {what}"


def make(
    session: Session, study: t.Study, child: t.StudyRun, own: Mapping[tuple[str, str | None, int | None], t.StudyRun]
) -> t.Run:
    """Store the run that a study has noted. own: all that it has noted, by role, arm and seed.

    Raises what submitting such a run raises: Conflict, NotFound, NotSupported.
    """
    name = child_name(study.name, child.arm, child.seed)
    training_id = own[Role.TRAINING, child.arm, child.seed].run_id
    made: t.Run
    match Role(child.role):
        case Role.ANALYSIS:
            made = _analysis(session, study, f"{TRAINED}{training_id}", name)
        case Role.EVALUATION:
            made = _evaluation(session, str(own[Role.CAUSAL, None, None].run_id), f"{TRAINED}{training_id}", name)
        case Role.COMPARISON:
            made = _comparison(session, study, str(own[Role.ANALYSIS, child.arm, child.seed].run_id), name)
        case role:
            raise Conflict(f"The {role} of this study is gone; start a new study.")
    made.tags = ["study", study.id]
    return made


def _analysis(session: Session, study: t.Study, model_id: str, name: str) -> t.Analysis:
    base = runs.get(session, t.Analysis, study.analysis_id)
    model = models.usable(session, model_id, base.engine)
    dataset = session.get_one(t.Dataset, base.dataset_id)
    params = base.params | {"model": model_id, "plan_of": base.id, "statistics": False}
    return analyses.create(session, name, dataset, model, params, plans.Frozen.stored(session, base))


def _evaluation(session: Session, causal_id: str, model_id: str, name: str) -> t.Evaluation:
    """Ask a trained model exactly what the causal check asked the untrained one."""
    causal = runs.get(session, t.Evaluation, causal_id)
    model = models.usable(session, model_id, "transformers")
    used = evaluations.used_by(session, model_id, None)
    asked = {p.row_idx for p in evaluations.prompts(session, causal_id)}
    rows = [row for row in evaluations.rows_to_ask(session, causal.dataset_id) if row.row_idx in asked]
    marked = asking.mark_seen(rows, used)
    own = {"model": model_id, "expert_set_id": None, "intervention": str(Intervention.NONE), "n_random": 0}
    return evaluations.create(
        session,
        name,
        causal.params | own | {"load_matched": False},
        marked,
        (evaluations.Arm(Family.BASELINE, model_id),),
        model_id=model_id,
        dataset_id=causal.dataset_id,
        capability_dataset_id=causal.capability_dataset_id,
        expert_set_id=None,
        intervention=str(Intervention.NONE),
        overlap=asking.overlap(marked, used),
        warnings=[],
        texts=causal.texts,
        model_digests={model_id: {name: getattr(model, f"{name}_digest") for name in _DIGESTS}},
    )


def _comparison(session: Session, study: t.Study, analysis_id: str, name: str) -> t.Comparison:
    rule = session.get_one(t.ExpertSet, study.expert_set_id).rule
    compared = comparisons.compare_now(session, study.analysis_id, analysis_id, rule["scope"], rule["pool"])
    params = {"intervals": False}
    return comparisons.create(session, compared, name, intervals=False, params=params)[0]
