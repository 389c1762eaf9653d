"""What a run will take, from the finished runs of this installation and the sizes that scans found."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from backend.domain import estimating
from backend.domain.estimating import Past, Range
from backend.store import fleet
from backend.store import tables as t

NEWEST = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Ranges, or None where nothing tells; basis: what they stand on, in words. worker_bytes: of the largest worker."""

    seconds: Range | None
    memory_bytes: Range | None
    n_past: int
    basis: str
    worker_bytes: int | None


def of_analysis(
    session: Session, model: t.Model, dataset_id: str, engine: str, dtype: str, new_tokens: int, n_samples: int
) -> Estimate:
    """Estimate measuring `n_samples` prompts on a model. new_tokens: generated per prompt."""
    own = _analyses(session, engine, new_tokens, t.Analysis.model_id == model.id)
    same = [run for run in own if run.dataset_id == dataset_id]
    work = float(n_samples * _passes(new_tokens))
    if own or not model.n_parameters:
        past = [Past(_seconds(run), _prompts(run)) for run in same or own]
        found = estimating.seconds(past, work, widen=1.0 if same else estimating.OTHER_PROMPTS)
        basis = _basis(len(past), "analysis of this model", "analyses of this model")
    else:
        sizes, others = _sizes(session), _analyses(session, engine, new_tokens, t.Analysis.model_id != model.id)
        past = [Past(_seconds(run), _prompts(run) * sizes.get(run.model_id, 0)) for run in others]
        widen = estimating.OTHER_MODEL * estimating.OTHER_PROMPTS
        found = estimating.seconds(past, work * model.n_parameters, widen=widen)
        basis = _basis(len(past), "analysis of another model, by size", "analyses of other models, by size")
    memory = estimating.reading_bytes(model.n_parameters, dtype) if model.n_parameters else None
    return Estimate(found, memory, len(past), basis, _worker_bytes(session))


def of_training(
    session: Session, analysis: t.Analysis, expert_set: t.ExpertSet | None, mode: str, n_steps: int, *, adapter: bool
) -> Estimate:
    """Estimate training `n_steps` batches of an analysis. adapter: factors learn instead of whole matrices."""
    query = select(t.Training, t.Analysis).join(t.Analysis, t.Training.analysis_id == t.Analysis.id)
    query = query.where(t.Training.status == "succeeded", t.Analysis.model_id == analysis.model_id)
    rows = session.execute(query.order_by(t.Training.finished_at.desc()).limit(NEWEST)).all()
    alike = [(run, of) for run, of in rows if run.mode == mode] or list(rows)
    past = [Past(_seconds(run), run.total * of.params["batch_size"]) for run, of in alike]
    same = bool(alike) and alike[0][0].mode == mode and alike[0][0].analysis_id == analysis.id
    widen = 1.0 if same else estimating.OTHER_PROMPTS
    found = estimating.seconds(past, n_steps * analysis.params["batch_size"], widen=widen)
    size = _sizes(session).get(analysis.model_id)
    n_experts = sum(site["n_experts"] for site in analysis.sites)
    share = expert_set.n_experts / n_experts if expert_set and mode == "selected" and n_experts else 1.0
    share *= estimating.ADAPTER_SHARE if adapter else 1.0
    memory = estimating.training_bytes(size, share) if size else None
    return Estimate(
        found,
        memory,
        len(past),
        _basis(len(past), "training of this model", "trainings of this model"),
        _worker_bytes(session),
    )


def _analyses(session: Session, engine: str, new_tokens: int, of: ColumnElement[bool]) -> list[t.Analysis]:
    """Return the newest finished analyses that generated tokens, or did not, as this one will."""
    a = t.Analysis
    query = select(a).where(a.status == "succeeded", a.engine == engine, of)
    runs = session.scalars(query.order_by(a.finished_at.desc()).limit(NEWEST))
    return [run for run in runs if bool(run.params["max_new_tokens"]) == bool(new_tokens)]


def _seconds(run: t.Run) -> float:
    if not (run.started_at and run.finished_at):
        return 0.0
    return (datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)).total_seconds()


def _prompts(run: t.Analysis) -> int:
    """Return the work of an analysis: its prompts, each as often as a forward pass read it."""
    return int(run.plan_summary["n_samples"]) * _passes(run.params["max_new_tokens"])


def _passes(new_tokens: int) -> int:
    """Return how many forward passes a prompt takes: one, and one for each generated token."""
    return 1 + new_tokens


def _sizes(session: Session) -> dict[str, int]:
    query = select(t.Model.id, t.Model.n_parameters).where(t.Model.n_parameters.is_not(None))
    return {id_: int(size) for id_, size in session.execute(query) if size}


def _worker_bytes(session: Session) -> int | None:
    sizes = (worker.memory_bytes for worker in fleet.alive(session))
    return max((size for size in sizes if size), default=None)


def _basis(n: int, one: str, many: str) -> str:
    return f"from {n} finished {one if n == 1 else many}" if n else "no finished run to go by: the first one tells"
