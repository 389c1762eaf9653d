"""What must hold before a study is queued: its trainings and its causal check are checked as if asked alone."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.api import evaluation_checks, training_checks
from backend.api.schemas.evaluations import EvaluationCreate
from backend.api.schemas.studies import StudyCreate
from backend.api.schemas.trainings import TrainingCreate
from backend.domain.errors import Conflict, InvalidInput, RuleInvalid
from backend.domain.experts import SelectionRule
from backend.domain.study.outcomes import ARMS, Arm, Role
from backend.domain.study.size import estimate
from backend.settings import Settings
from backend.store import evaluations, experts, models, runs, studies, trainings
from backend.store import tables as t
from backend.store.study_runs import child_name

_MOST_ANSWERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Planned:
    """A study that can be queued."""

    name: str
    analysis: t.Analysis
    chosen: t.ExpertSet
    trainings: dict[tuple[Arm, int], dict[str, Any]]
    causal: evaluation_checks.Planned
    params: dict[str, Any]

    @property
    def n_steps(self) -> int:
        """Steps of one training."""
        return int(self.analysis.plan_summary["n_batches"]) * int(self.params["training"]["epochs"])


def planned(session: Session, body: StudyCreate, settings: Settings) -> Planned:
    """Return what a study will do. A rule's expert set is stored on the way: roll back what is only tried.

    Raises NotFound, Conflict, InvalidInput, NotSupported.
    """
    analysis = runs.get_live(session, t.Analysis, body.analysis_id)
    if analysis.status != "succeeded":
        raise Conflict(f"The analysis {analysis.name!r} is {analysis.status}: a study needs it finished.")
    models.usable(session, analysis.model_id, "transformers")
    chosen = _expert_set(session, body, analysis)
    if chosen.kind == "per_batch":
        raise InvalidInput(
            "A per_batch expert set belongs to batches, and the reshuffled arm has none: choose a global set.",
            ("body", "expert_set_id"),
        )
    own = {(arm, seed): _training(session, body, chosen, arm, seed) for seed in body.seeds for arm in ARMS}
    causal = _causal(session, body, analysis, chosen, settings)
    name = body.name or f"Study of {chosen.name} on {analysis.name}"[:200]
    params = body.model_dump(mode="json", exclude={"name", "analysis_id", "expert_set_id"})
    found = Planned(name, analysis, chosen, own, causal, params)
    params["estimate"] = _estimate(found, body)
    return found


def _expert_set(session: Session, body: StudyCreate, analysis: t.Analysis) -> t.ExpertSet:
    if (body.expert_set_id is None) == (body.rule is None):
        raise InvalidInput("Name one of expert_set_id and rule: the experts to train.", ("body", "expert_set_id"))
    if body.expert_set_id is not None:
        return experts.get(session, body.expert_set_id)
    assert body.rule is not None
    rule = SelectionRule.from_dict(body.rule.model_dump(exclude={"name", "statistics_id"}))
    chosen = experts.apply(session, analysis, rule, body.rule.statistics_id)
    if not chosen.experts:
        raise RuleInvalid("This rule chooses no expert at all: nothing could be trained with it. Loosen it.")
    return experts.create(session, analysis, body.rule.name or experts.default_name(rule), chosen)[0]


def _training(session: Session, body: StudyCreate, chosen: t.ExpertSet, arm: Arm, seed: int) -> dict[str, Any]:
    asked = TrainingCreate(
        **body.training.model_dump(),
        analysis_id=body.analysis_id,
        expert_set_id=chosen.id,
        seed=seed,
        preserve_batches=arm.preserves,
    )
    try:
        return training_checks.checked(session, asked)[2]
    except InvalidInput as error:
        raise _inside(error, "training") from None


def _causal(
    session: Session, body: StudyCreate, analysis: t.Analysis, chosen: t.ExpertSet, settings: Settings
) -> evaluation_checks.Planned:
    asked = EvaluationCreate(**body.evaluation.model_dump(), model=analysis.model_id, expert_set_id=chosen.id)
    try:
        found = evaluation_checks.planned(session, asked, settings, analysis.id)
    except InvalidInput as error:
        raise _inside(error, "evaluation") from None
    n_answers = (len(found.arms) + len(ARMS) * len(body.seeds)) * len(found.prompts)
    if n_answers > _MOST_ANSWERS:
        raise InvalidInput(
            f"That would be {n_answers:,} answers; at most {_MOST_ANSWERS:,} are kept. Ask fewer prompts or sets.",
            ("body", "evaluation", "max_prompts"),
        )
    return found


def _inside(error: InvalidInput, part: str) -> InvalidInput:
    """Return an error about one of the runs as one about the field of the study that it came from."""
    place = error.loc[1:] if error.loc[:1] == ("body",) else error.loc
    return InvalidInput(str(error), ("body", part, *place))


def _estimate(found: Planned, body: StudyCreate) -> dict[str, Any]:
    plan = found.analysis.plan_summary
    return estimate(
        n_seeds=len(body.seeds),
        n_samples=plan["n_samples"],
        n_steps=found.n_steps,
        batch_size=found.analysis.params["batch_size"],
        n_arms=len(found.causal.arms),
        n_prompts=len(found.causal.prompts),
        max_new_tokens=body.evaluation.max_new_tokens,
    )


def store(session: Session, plan: Planned) -> t.Study:
    """Store a study with its trainings and its causal check; their jobs are made when it starts."""
    made: dict[tuple[Role, Arm | None, int | None], str] = {}
    new: list[t.Run] = []
    for (arm, seed), params in plan.trainings.items():
        name = child_name(plan.name, arm, seed)
        training = trainings.create(session, name, plan.analysis, plan.chosen, params, plan.n_steps)
        made[Role.TRAINING, arm, seed] = training.id
        new.append(training)
    causal = plan.causal
    name = child_name(plan.name, None, None)
    checked = evaluations.create(session, name, causal.params, causal.prompts, causal.arms, **causal.columns)
    made[Role.CAUSAL, None, None] = checked.id
    study = studies.create(session, plan.name, plan.analysis, plan.chosen, plan.params, made)
    for run in (*new, checked):
        run.tags = ["study", study.id]
    session.flush()
    return study
