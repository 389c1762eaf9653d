"""What must hold before an evaluation is queued, and what it will ask, of which arms. Each refusal says what to do."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.api.control_trainings import NONE_GIVEN, NOT_CHECKED, control_arms
from backend.api.schemas.evaluations import EvaluationCreate
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.evaluation import interventions as of
from backend.domain.evaluation import prompts as asking
from backend.domain.evaluation.interventions import Family, Intervention
from backend.domain.vocabulary import Expert
from backend.settings import Settings
from backend.store import datasets, evaluations, experts, models, risks, runs
from backend.store import tables as t
from backend.store.evaluations import Arm

_N_RANDOM = 20
_MOST_ANSWERS = 1_000_000
"""What one evaluation may hold: its answers are read together when its rates are computed."""
_INHERITED = {"dtype": "auto", "max_length": 512, "system_prompt": None}
_DIGESTS = ("weights", "tokenizer", "template")


@dataclass(frozen=True, slots=True)
class Planned:
    """An evaluation that can be queued. columns: what of it is stored as it is."""

    name: str
    params: dict[str, Any]
    prompts: tuple[asking.AskedPrompt, ...]
    arms: tuple[Arm, ...]
    columns: dict[str, Any]

    @property
    def smallest_p(self) -> dict[str, float]:
        """The smallest p that each random family can reach."""
        found = {str(family): sum(arm.family is family for arm in self.arms) for family in of.CONTROLS}
        return {family: 1 / (n + 1) for family, n in found.items() if n}


def planned(session: Session, body: EvaluationCreate, settings: Settings, to_train_on: str | None = None) -> Planned:
    """Return what an evaluation will do. Raises NotFound, Conflict, InvalidInput, NotSupported.

    to_train_on: an analysis whose prompts count as used, because models trained on them will be asked the same.
    """
    intervention = Intervention(body.intervention)
    model = models.usable(session, body.model, "transformers")
    dataset = datasets.get_ready(session, body.dataset_id)
    chosen = _expert_set(session, body, intervention)
    analysis = runs.get_live(session, t.Analysis, chosen.analysis_id) if chosen else None
    _check_judge(session, body, settings)
    warnings: list[str] = []
    arms = _arms(session, body, model, chosen, warnings)
    used = evaluations.used_by(session, body.model, chosen, to_train_on)
    rows = asking.mark_seen(evaluations.rows_to_ask(session, dataset.id), used)
    asked = asking.choose_prompts(rows, holdout=body.holdout, max_prompts=body.max_prompts, seed=body.seed)
    _check_size(len(arms) * len(asked))
    texts = _texts(session, body, dataset, asked, warnings)
    _warn(dataset, asked, intervention, warnings)
    params = body.model_dump(mode="json", exclude={"name", "priority"}) | _inherited(body, analysis)
    params["n_random"] = sum(arm.family is Family.RANDOM for arm in arms)
    used_models = {arm.model_id: models.usable(session, arm.model_id, "transformers") for arm in arms}
    what = chosen.name if chosen else body.model
    return Planned(
        body.name or f"{intervention}: {what} on {dataset.name}"[:200],
        params,
        asked,
        arms,
        {
            "model_id": model.id,
            "dataset_id": dataset.id,
            "capability_dataset_id": body.capability_dataset_id,
            "expert_set_id": chosen.id if chosen else None,
            "intervention": str(intervention),
            "overlap": asking.overlap(asked, used),
            "warnings": warnings,
            "texts": texts,
            "model_digests": {
                id_: {name: getattr(one, f"{name}_digest") for name in _DIGESTS} for id_, one in used_models.items()
            },
        },
    )


def _check_size(n_answers: int) -> None:
    if n_answers > _MOST_ANSWERS:
        raise InvalidInput(
            f"That would be {n_answers:,} answers; at most {_MOST_ANSWERS:,} are kept. Ask fewer prompts or sets.",
            ("body", "max_prompts"),
        )


def _inherited(body: EvaluationCreate, analysis: t.Analysis | None) -> dict[str, Any]:
    from_analysis = analysis.params if analysis else {}
    return {
        name: given if (given := getattr(body, name)) is not None else from_analysis.get(name, fallback)
        for name, fallback in _INHERITED.items()
    }


def _expert_set(session: Session, body: EvaluationCreate, intervention: Intervention) -> t.ExpertSet | None:
    place = ("body", "expert_set_id")
    if body.expert_set_id is None:
        if intervention in of.STEERS:
            raise InvalidInput(f"intervention {str(intervention)!r} needs an expert set.", place)
        return None
    if intervention is Intervention.NONE:
        raise InvalidInput("intervention 'none' steers nothing: leave the expert set away.", place)
    return experts.get(session, body.expert_set_id)


def _check_judge(session: Session, body: EvaluationCreate, settings: Settings) -> None:
    place = ("body", "judge")
    if body.judge.kind == "endpoint" and not (settings.judge_url and settings.judge_model):
        raise InvalidInput(
            "No endpoint is configured: set ROUTEPRINT_JUDGE_URL and ROUTEPRINT_JUDGE_MODEL for backend and worker.",
            place,
        )
    if body.judge.kind == "classifier" and session.get(t.Model, body.judge.model) is None:
        raise InvalidInput(
            f"There is no folder {body.judge.model!r} below the models folder. Put the classifier there and scan.",
            place,
        )


# --- arms


def _arms(
    session: Session, body: EvaluationCreate, model: t.Model, chosen: t.ExpertSet | None, warnings: list[str]
) -> tuple[Arm, ...]:
    intervention = Intervention(body.intervention)
    if intervention not in of.STEERS and body.n_random:
        raise InvalidInput(
            f"intervention {str(intervention)!r} steers no router, so there are no random sets to steer: leave "
            "n_random away. A trained model is best compared with trainings of random sets of its size: `controls`.",
            ("body", "n_random"),
        )
    if intervention is not Intervention.TRAINED and body.controls:
        raise InvalidInput(
            "controls are trainings that stand beside a trained model: leave them away, or use intervention 'trained'.",
            ("body", "controls"),
        )
    if intervention is Intervention.NONE:
        return (Arm(Family.BASELINE, model.id),)
    if intervention is Intervention.TRAINED:
        return _trained(session, body, chosen, warnings)
    assert chosen is not None
    return _steered(session, body, model, chosen, warnings)


def _trained(
    session: Session, body: EvaluationCreate, chosen: t.ExpertSet | None, warnings: list[str]
) -> tuple[Arm, ...]:
    if not body.model.startswith(evaluations.TRAINED):
        raise InvalidInput("intervention 'trained' compares a model `training:<id>` with its base.", ("body", "model"))
    training = session.get(t.Training, body.model.removeprefix(evaluations.TRAINED))
    if training is None:
        raise NotFound("training", body.model)
    if chosen is not None and chosen.id != training.expert_set_id:
        raise InvalidInput("That is not the expert set of this training: leave it away.", ("body", "expert_set_id"))
    base = session.get_one(t.Analysis, training.analysis_id).model_id
    controls = control_arms(session, body.controls, training)
    warnings.append(NOT_CHECKED if controls else NONE_GIVEN)
    trained = tuple((layer, expert) for layer, expert in chosen.experts) if chosen else ()
    return Arm(Family.BASELINE, base), Arm(Family.REAL, body.model, trained), *controls


def _steered(
    session: Session, body: EvaluationCreate, model: t.Model, chosen: t.ExpertSet, warnings: list[str]
) -> tuple[Arm, ...]:
    analysis = runs.get(session, t.Analysis, chosen.analysis_id)
    if analysis.sites != model.sites:
        raise InvalidInput(
            f"The expert set {chosen.name!r} was made on {analysis.model_id}, whose experts are not those of "
            f"{model.id}.",
            ("body", "expert_set_id"),
        )
    sites = risks.sites_of(analysis)
    real = tuple((layer, expert) for layer, expert in chosen.experts)
    if chosen.kind == "per_batch":
        warnings.append(f"The set differs by batch; its union of {len(real)} experts is what is steered.")
    if chosen.rule.get("source"):
        warnings.append("The set was imported: what chose it is not known here, and overlap with that cannot be seen.")
    if Intervention(body.intervention) is Intervention.DEACTIVATE:
        of.check_deactivate(real, sites)
    else:
        real, left_out = of.used_for_activate(real, sites, evaluations.strength_of(session, analysis, chosen.rule))
        if left_out:
            warnings.append(
                f"At most top-k experts of a layer can be in every token's top-k: {_words(left_out)} "
                "are left out, the weakest of their layers."
            )
    load = evaluations.load_of(session, analysis, chosen.rule["scope"])
    n = _N_RANDOM if body.n_random is None else body.n_random
    arms = [Arm(Family.BASELINE, model.id), Arm(Family.REAL, model.id, real, of.load_share(real, load))]
    for family, drawn in _controls(body, real, sites, load, n):
        if n and family is Family.RANDOM:
            of.check_possible(drawn, family)
        if n and len(drawn.sets) < n:
            warnings.append(f"Only {len(drawn.sets)} other sets exist for the family {family}: p cannot get small.")
        arms += [Arm(family, model.id, one, of.load_share(one, load)) for one in drawn.sets]
    return tuple(arms)


def _controls(
    body: EvaluationCreate, real: tuple[Expert, ...], sites: Any, load: dict[Expert, float], n: int
) -> list[tuple[Family, of.Drawn]]:
    found = [(Family.RANDOM, of.random_sets(real, sites, n, body.seed))]
    if body.load_matched:
        found.append((Family.LOAD_MATCHED, of.matched_sets(real, sites, load, n, body.seed)))
    return found


def _words(chosen: Sequence[Expert]) -> str:
    shown = ", ".join(f"{layer}.{expert}" for layer, expert in chosen[:8])
    return shown + (f" and {len(chosen) - 8} more" if len(chosen) > 8 else "")


# --- what is asked


def _texts(
    session: Session,
    body: EvaluationCreate,
    dataset: t.Dataset,
    asked: Sequence[asking.AskedPrompt],
    warnings: list[str],
) -> list[int]:
    """Return the rows whose responses the perplexity is measured on."""
    if body.capability_dataset_id is not None:
        other = datasets.get_ready(session, body.capability_dataset_id)
        rows = [idx for idx, _ in evaluations.rows_with_response(session, other.id)]
        if not rows:
            raise InvalidInput(
                f"No prompt of {other.name!r} carries a response, so there is no perplexity to measure on it.",
                ("body", "capability_dataset_id"),
            )
        return sorted(sorted(rows, key=lambda i: _lot(body.seed, i))[: body.max_prompts])
    if dataset.label_meaning["kind"] != "harmless_harmful":
        warnings.append("No perplexity: responses in this set may be refusals. Name a capability set to measure it.")
        return []
    there = {idx for idx, label in evaluations.rows_with_response(session, dataset.id) if label == "safe"}
    rows = [p.row_idx for p in asked if p.row_idx in there]
    if not rows:
        warnings.append("No perplexity: no safe prompt carries a response. Name a capability set to measure it.")
    return rows


def _lot(seed: int, row_idx: int) -> str:
    return hashlib.sha256(f"{seed}\n{row_idx}".encode()).hexdigest()


def _warn(
    dataset: t.Dataset, asked: Sequence[asking.AskedPrompt], intervention: Intervention, warnings: list[str]
) -> None:
    seen = sum(p.seen for p in asked)
    if seen:
        how = "to train" if intervention is Intervention.TRAINED else "to choose the experts or to train"
        warnings.insert(
            0,
            f"In-sample: {seen} of {len(asked)} prompts, or their groups, were used {how}. "
            "What is seen here need not hold on new prompts.",
        )
    for label in ("safe", "unsafe"):
        if not any(p.label == label for p in asked):
            warnings.append(f"There is no {label} prompt to ask, so nothing is said of them.")
    if dataset.label_meaning["kind"] != "harmless_harmful":
        meaning = dataset.label_meaning
        warnings.append(f"Here safe means {meaning['safe']!r} and unsafe {meaning['unsafe']!r}: read the rates so.")


def check_finished(evaluation: t.Evaluation) -> None:
    """Raise Conflict where verdicts are still being made."""
    if evaluation.status in ("queued", "running"):
        raise Conflict(f"The evaluation is {evaluation.status}: verdicts can be overruled once it is done.")
