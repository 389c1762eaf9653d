"""What must hold before a training is queued. Each refusal names the field and what to do."""

from typing import Any

from sqlalchemy.orm import Session

from backend.api.schemas.trainings import TrainingCreate
from backend.domain.errors import Conflict, InvalidInput, NotSupported
from backend.domain.vocabulary import LABELS
from backend.store import datasets, experts, fleet, models, risks, runs, trainings
from backend.store import tables as t


def checked(session: Session, body: TrainingCreate) -> tuple[t.Analysis, t.ExpertSet | None, dict[str, Any]]:
    """Return the analysis, the expert set and the training's parameters. Raises NotFound, Conflict, InvalidInput."""
    analysis = runs.get_live(session, t.Analysis, body.analysis_id)
    if analysis.status != "succeeded":
        raise Conflict(
            f"The analysis {analysis.name!r} is {analysis.status}: a training needs every batch measured, so wait "
            "until it has succeeded."
        )
    model = models.usable(session, analysis.model_id, analysis.engine)
    dataset = datasets.get(session, analysis.dataset_id)
    _check_targets(session, body, dataset)
    expert_set = _expert_set(session, body, analysis)
    if body.shard_weights and body.n_processes == 1:
        raise InvalidInput(
            "shard_weights shares weights out among processes: n_processes 1 leaves nobody to share with.",
            ("body", "n_processes"),
        )
    _check_adapter(body, model)
    _check_trackers(session, body)
    _check_routers(session, body, analysis, model)
    params = body.model_dump(mode="json", exclude={"name", "priority"})
    return analysis, expert_set, params


def _check_adapter(body: TrainingCreate, model: t.Model) -> None:
    if body.adapter is None:
        return
    if body.mode != "selected":
        raise InvalidInput(
            f"An adapter is trained on the chosen experts only: with mode {body.mode!r} leave adapter null.",
            ("body", "adapter"),
        )
    if body.shard_weights:
        raise InvalidInput(
            "An adapter cannot be trained with sharded weights: leave shard_weights off, or adapter null. Several "
            "processes and micro_batch_size work with an adapter.",
            ("body", "shard_weights"),
        )
    if "adapter" in model.refuses:
        raise NotSupported(
            f"{model.architecture} cannot be trained with an adapter: {model.refuses['adapter']} Leave adapter null."
        )


def _check_trackers(session: Session, body: TrainingCreate) -> None:
    """Refuse a tracker that no worker has which is up now; while none is up, the worker that comes says it."""
    there = fleet.alive(session) if body.report_to else []
    for tool in body.report_to:
        if there and not any(tool in worker.versions for worker in there):
            raise InvalidInput(
                f"No worker that is up has {tool}: install it there (pip install 'routeprint[tracking]') and start the "
                "worker again, or leave it out.",
                ("body", "report_to"),
            )


def _check_routers(session: Session, body: TrainingCreate, analysis: t.Analysis, model: t.Model) -> None:
    if body.routers is None:
        return
    for wrong, what, place in (
        (body.mode != "selected", f"with the experts of a set (mode 'selected'), not with mode {body.mode!r}", "mode"),
        (
            body.adapter is not None,
            "without an adapter, whose files cannot hold them: leave it null",
            "adapter",
        ),
        (body.shard_weights, "with whole weights only: leave shard_weights off", "shard_weights"),
        (not body.preserve_batches, "in analysis batches, where counterparts stand together", "preserve_batches"),
    ):
        if wrong:
            raise InvalidInput(f"Routers learn in turn {what}.", ("body", place))
    if "routers" in model.refuses:
        raise NotSupported(
            f"The routers of {model.architecture} cannot be trained: {model.refuses['routers']} Leave routers null."
        )
    without = trainings.batches_without_pairs(session, analysis)
    if without:
        raise InvalidInput(
            f"{len(without)} of {analysis.plan_summary['n_batches']} batches hold no unsafe prompt with its safe "
            f"counterpart (the first is batch {without[0]}), so the routers would have nothing to learn there. Give "
            "the prompt set a `group` column that names the pairs, analyse it with strategy 'paired', and train that.",
            ("body", "routers"),
        )


def _check_targets(session: Session, body: TrainingCreate, dataset: t.Dataset) -> None:
    meaning = dataset.label_meaning
    for label in LABELS:
        target = getattr(body.targets, label.value)
        place = ("body", "targets", label.value)
        if target == "default" and meaning["kind"] != "harmless_harmful":
            raise InvalidInput(
                f"In this prompt set {label.value!r} means {meaning[label.value]!r}, so there is no default for what "
                "to train: choose given, model or refusal.",
                place,
            )
        missing = datasets.n_without_response(session, dataset.id, label.value) if target == "given" else 0
        if missing:
            raise InvalidInput(
                f"{missing} {label.value} prompts carry no response, so `given` cannot be trained: choose model or "
                "refusal.",
                place,
            )


def _expert_set(session: Session, body: TrainingCreate, analysis: t.Analysis) -> t.ExpertSet | None:
    place = ("body", "expert_set_id")
    if body.expert_set_id is None:
        if body.mode != "full":
            raise InvalidInput(f"mode {body.mode!r} needs an expert set; only mode 'full' goes without.", place)
        if body.routing == "masked":
            raise InvalidInput("routing 'masked' needs an expert set: its experts are the ones that stay.", place)
        return None
    found = experts.get(session, body.expert_set_id)
    _check_fits(session, analysis, found)
    if found.kind == "per_batch" and not body.preserve_batches:
        raise InvalidInput(
            "A per_batch expert set belongs to batches, so it needs preserve_batches.", ("body", "preserve_batches")
        )
    _check_trainable(body, analysis, found)
    return found


def _check_fits(session: Session, analysis: t.Analysis, chosen: t.ExpertSet) -> None:
    """A global set may come from another analysis of the same experts; a per_batch set belongs to its batches."""
    source = runs.get_live(session, t.Analysis, chosen.analysis_id)
    if chosen.kind == "per_batch" and source.id != analysis.id:
        why = "a per_batch set is keyed by the batches of its own"
    elif source.sites != analysis.sites:
        why = f"it was made on {source.model_id}, whose experts are not those of {analysis.model_id}"
    else:
        return
    raise InvalidInput(
        f"The expert set {chosen.name!r} was chosen from another analysis ({source.id}), and {why}.",
        ("body", "expert_set_id"),
    )


def _check_trainable(body: TrainingCreate, analysis: t.Analysis, chosen: t.ExpertSet) -> None:
    untrainable = {site.layer for site in risks.sites_of(analysis) if not site.trainable}
    layers = sorted({layer for layer, _ in chosen.experts if layer in untrainable})
    if body.mode == "selected" and layers:
        raise NotSupported(f"The experts of layer {layers[0]} have no weights to train: choose a set without them.")
