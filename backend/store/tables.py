"""Every table of the product, typed. Integer counts are the truth; floats beside them are derived from them.

One analysis batch is one transaction: its row in `analysis_batches`, its `batch_samples`, its `batch_routing` per
scope and its share of `analysis_aggregates` land together (see writes.py).
"""

import secrets
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.domain.jobs import PRIORITY
from backend.store.arrays import Array, Digest


def new_id(prefix: str) -> str:
    """Return a server-made id: a readable prefix and 48 random bits, as in `an_1f0c9a2b7d3e`."""
    return f"{prefix}_{secrets.token_hex(6)}"


def utcnow() -> str:
    """Return the present moment as ISO 8601 in UTC with microseconds (sorts as text)."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Base(DeclarativeBase):
    """Root of the tables. Times are ISO 8601 text in UTC; JSON is plain JSON on every database."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, NDArray[Any]: Array, NDArray[np.int64]: Array}  # noqa: RUF012 - SQLAlchemy's own declaration style


class Dataset(Base):
    """A prompt set: content-addressed, immutable but for its name."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    label_meaning: Mapped[dict[str, Any]]  # {"kind": ..., "safe": "...", "unsafe": "..."}
    n_rows: Mapped[int]
    n_safe: Mapped[int]
    n_unsafe: Mapped[int]
    n_duplicates: Mapped[int]
    status: Mapped[str] = mapped_column(String(16), default="succeeded")
    stored: Mapped[int] = mapped_column(default=0)  # rows that are there: n_rows, once it succeeded
    error: Mapped[str | None] = mapped_column(Text)
    files: Mapped[list[Any]]  # [{"name", "sha256", "bytes", "mapping", "label", "n_rows", "left_out": {reason: rows}}]
    left_out: Mapped[list[Any]] = mapped_column(JSON, default=list, deferred=True)  # [{"file", "row", "reason"}], first
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    deleted_at: Mapped[str | None] = mapped_column(String(40))


class PromptRow(Base):
    """One row of a prompt set, in the set's canonical order."""

    __tablename__ = "prompt_rows"
    __table_args__ = (UniqueConstraint("dataset_id", "row_id"),)

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    row_idx: Mapped[int] = mapped_column(primary_key=True)
    row_id: Mapped[str] = mapped_column(String(64))  # sha256 of the canonical row: prompts.PromptRow.digest
    label: Mapped[str] = mapped_column(String(8))
    messages: Mapped[list[Any]]  # [{"role", "content"}]
    response: Mapped[str | None] = mapped_column(Text)
    category: Mapped[str | None] = mapped_column(Text)
    difficulty: Mapped[str | None] = mapped_column(Text)
    group: Mapped[str | None] = mapped_column("group_", Text)
    source: Mapped[str | None] = mapped_column(Text)


class Model(Base):
    """A model a worker has scanned. id: path below the models folder, `hub:<org>/<name>`, or `training:<id>`."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(300), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    architecture: Mapped[str] = mapped_column(String(200))
    supported: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(Text)
    engines: Mapped[list[Any]]
    sites: Mapped[list[Any]]  # [{"layer", "site", "n_experts", "top_k", "trainable"}], in model order
    n_parameters: Mapped[int | None] = mapped_column(BigInteger)
    config_digest: Mapped[str] = mapped_column(String(64))
    weights_digest: Mapped[str | None] = mapped_column(String(64))
    tokenizer_digest: Mapped[str | None] = mapped_column(String(64))
    template_digest: Mapped[str | None] = mapped_column(String(64))  # null: the tokenizer has no chat template
    refuses: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # {what training cannot do with it: why}
    scanned_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    scanned_by: Mapped[str] = mapped_column(String(200))


class Run(Base):
    """Columns that every long-running resource has. status: queued running succeeded failed cancelled."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[Any]] = mapped_column(JSON, default=list)
    notes: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    stage: Mapped[str] = mapped_column(String(40), default="")  # what runs now, in words: "generating answers"
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    environment: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # versions, device, threads
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow, index=True)
    started_at: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[str | None] = mapped_column(String(40))
    deleted_at: Mapped[str | None] = mapped_column(String(40))


class Analysis(Run):
    """One batch plan measured on one model."""

    __tablename__ = "analyses"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    model_id: Mapped[str] = mapped_column(String(300), index=True)
    engine: Mapped[str] = mapped_column(String(20))
    params: Mapped[dict[str, Any]]  # the request, with every default filled in
    plan_digest: Mapped[str] = mapped_column(String(64), index=True)
    plan_summary: Mapped[dict[str, Any]]  # n_batches, n_samples, n_left_out, left_out_reasons
    sites: Mapped[list[Any]]  # the model's MoE sites as measured (copied from Model at submission)
    model_digests: Mapped[dict[str, Any]]  # config, weights, tokenizer, template at submission


class AnalysisPlan(Base):
    """The frozen plan of an analysis. Not in its row, which is written anew with every batch."""

    __tablename__ = "analysis_plans"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    plan: Mapped[bytes] = mapped_column(LargeBinary)  # zlib of BatchPlan.to_json()


class AnalysisBatch(Base):
    """One measured batch."""

    __tablename__ = "analysis_batches"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    batch_idx: Mapped[int] = mapped_column(primary_key=True)
    batch_id: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))  # measured | non_finite
    n_safe: Mapped[int]
    n_unsafe: Mapped[int]
    n_truncated: Mapped[int]


class BatchSample(Base):
    """One sample of a measured batch, as it was given to the model."""

    __tablename__ = "batch_samples"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    batch_idx: Mapped[int] = mapped_column(primary_key=True)
    in_batch_idx: Mapped[int] = mapped_column(primary_key=True)
    row_idx: Mapped[int]
    row_id: Mapped[str] = mapped_column(Digest)
    label: Mapped[str] = mapped_column(String(8))
    prompt_digest: Mapped[str] = mapped_column(Digest)
    token_ids: Mapped[NDArray[Any]]  # [token] the prompt as fed; training uses exactly these
    tokens: Mapped[int]  # prompt length in tokens, as fed
    truncated: Mapped[bool]
    non_finite: Mapped[bool]
    own: Mapped[NDArray[Any] | None]  # [token] 1: counts in scope prompt; null: every token does


class BatchRouting(Base):
    """What the experts of a measured batch received, for one token scope."""

    __tablename__ = "batch_routing"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    batch_idx: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    tokens: Mapped[NDArray[Any]]  # [sample] counted tokens
    counts: Mapped[NDArray[Any]]  # [sample, site, expert]
    weights: Mapped[
        NDArray[Any] | None
    ]  # [label (safe, unsafe), site, expert] sum of routing weights, float32; null: engine gives none
    # risk_diff is not stored: it follows from the counts in two milliseconds at 58 x 256 experts
    max_abs_risk_diff: Mapped[float | None]  # pool mean; null where non-finite or a side has no tokens
    noise_floor: Mapped[float | None]


class AnalysisAggregate(Base):
    """Running sums over the measured batches of an analysis (exact integers: order never matters)."""

    __tablename__ = "analysis_aggregates"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    n_batches: Mapped[int]
    samples: Mapped[NDArray[Any]]  # [label] samples with at least one counted token
    tokens: Mapped[NDArray[Any]]  # [label]
    counts: Mapped[NDArray[Any]]  # [label, site, expert]
    rate_sums: Mapped[NDArray[Any]]  # [label, site, expert] sum of per-sample rates, fixed point (risk.RATE_SCALE)


class Answer(Base):
    """An answer to one sample of an analysis: given by the row or generated greedily by the model."""

    __tablename__ = "answers"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    batch_idx: Mapped[int] = mapped_column(primary_key=True)
    in_batch_idx: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)  # given | model
    text: Mapped[str] = mapped_column(Text)
    token_ids: Mapped[NDArray[Any]]  # [token]


class Statistics(Run):
    """The statistics of one analysis in one token scope and pool: tests, intervals, stability, baselines, drift."""

    __tablename__ = "statistics"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id"), index=True)
    scope: Mapped[str] = mapped_column(String(10))
    pool: Mapped[str] = mapped_column(String(10))
    params: Mapped[dict[str, Any]]  # the request, with every default filled in, and the version of the method
    input_digest: Mapped[str | None] = mapped_column(String(64))  # of the counts and prompts that were read
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)  # of input, params and figures
    summary: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # empty until it has succeeded
    figures: Mapped[NDArray[Any] | None] = mapped_column(Array, deferred=True)  # [figure, site, expert], NaN: none


class ExpertSet(Base):
    """Chosen (layer, expert) pairs with how they were chosen: immutable, content-addressed."""

    __tablename__ = "expert_sets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id"), index=True)
    kind: Mapped[str] = mapped_column(String(12))  # global | per_batch
    rule: Mapped[dict[str, Any]]
    experts: Mapped[list[Any]]  # [[layer, expert], ...]; for per_batch the union
    per_batch: Mapped[dict[str, Any] | None]  # {batch_id: [[layer, expert], ...]}
    n_experts: Mapped[int]
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)


class Training(Run):
    """One training run on the batches of one analysis."""

    __tablename__ = "trainings"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id"), index=True)
    expert_set_id: Mapped[str | None] = mapped_column(ForeignKey("expert_sets.id"))
    mode: Mapped[str] = mapped_column(String(20))  # selected | all_but_selected | full
    routing: Mapped[str] = mapped_column(String(10))  # free | masked
    params: Mapped[dict[str, Any]]
    target_digest: Mapped[str | None] = mapped_column(String(64))  # frozen when the targets are
    result: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # model path, manifest digest, routing report


class TrainingExample(Base):
    """The frozen target of one sample of a training."""

    __tablename__ = "training_examples"

    training_id: Mapped[str] = mapped_column(ForeignKey("trainings.id", ondelete="CASCADE"), primary_key=True)
    batch_idx: Mapped[int] = mapped_column(primary_key=True)
    in_batch_idx: Mapped[int] = mapped_column(primary_key=True)
    row_id: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(8))
    target: Mapped[str] = mapped_column(String(10))  # given | model | refusal
    prompt_digest: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)
    answer_ids: Mapped[NDArray[Any]]  # [token], cut at max_answer_length
    cut: Mapped[bool]


class TrainingStep(Base):
    """One optimizer step. With preserve_batches=false, batch_idx, batch_id and verified are null."""

    __tablename__ = "training_steps"
    __table_args__ = (Index("ix_training_steps_batch", "training_id", "batch_idx"),)

    training_id: Mapped[str] = mapped_column(ForeignKey("trainings.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)  # from 1
    epoch: Mapped[int]  # from 0
    batch_idx: Mapped[int | None]
    batch_id: Mapped[str | None] = mapped_column(String(64))
    verified: Mapped[bool | None]
    loss: Mapped[float | None]
    loss_safe: Mapped[float | None]
    loss_unsafe: Mapped[float | None]
    grad_norm: Mapped[float | None]
    learning_rate: Mapped[float]
    n_answer_tokens: Mapped[int]
    seconds: Mapped[float]
    samples: Mapped[list[Any]]  # [{"batch_idx", "in_batch_idx", "row_id", "label", "prompt_digest", "loss"}] in order
    kind: Mapped[str] = mapped_column(String(10), default="experts")  # what it taught: experts | routers
    consistency_loss: Mapped[float | None]  # null: a run whose routers do not learn


class RiskTable(Base):
    """A published risk table: counts per (layer, expert) without prompts. Immutable, content-addressed."""

    __tablename__ = "risk_tables"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), index=True)  # of the counts, not of the file
    model: Mapped[str] = mapped_column(String(300))  # in the uploader's words
    file: Mapped[dict[str, Any]]  # {"name", "sha256", "bytes"}
    reading: Mapped[dict[str, Any]]  # columns, denominator, stated, n_mismatched, reasons, layer_numbers
    label_meaning: Mapped[dict[str, Any]]  # {"safe": "...", "unsafe": "..."}
    layers: Mapped[list[Any]]
    n_experts: Mapped[int]
    n_rows: Mapped[int]
    counts: Mapped[NDArray[Any]]  # [label, layer, expert]
    tokens: Mapped[NDArray[Any]]  # [label, layer, expert]; 0: no rate
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)


class Comparison(Run):
    """Two sides (an analysis or a risk table each) side by side. Done at once; a run only where intervals are asked."""

    __tablename__ = "comparisons"

    side_a: Mapped[str] = mapped_column(String(40), index=True)  # an_... or rt_...
    side_b: Mapped[str] = mapped_column(String(40), index=True)
    scope: Mapped[str] = mapped_column(String(10))
    pool: Mapped[str] = mapped_column(String(10))
    params: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]  # overlap, correlations, drift per layer; the intervals' figures once they are there
    # float32 [risk_diff of a, of b, then low, high of the difference; site, expert]
    matrices: Mapped[NDArray[Any]] = mapped_column(deferred=True)
    has_intervals: Mapped[bool] = mapped_column(default=False)


class Evaluation(Run):
    """The causal check: what an intervention on an expert set does to behaviour, beside random sets."""

    __tablename__ = "evaluations"

    model_id: Mapped[str] = mapped_column(String(300), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    capability_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    expert_set_id: Mapped[str | None] = mapped_column(ForeignKey("expert_sets.id"), index=True)
    intervention: Mapped[str] = mapped_column(String(12))  # none | deactivate | activate | trained
    params: Mapped[dict[str, Any]]  # the request, with every default filled in
    overlap: Mapped[dict[str, Any]]  # evaluation.prompts.overlap: what of it was seen by what chose the experts
    warnings: Mapped[list[Any]]  # what to know before reading it, in words
    texts: Mapped[list[Any]]  # row_idx of the answers whose likelihood is measured, in the capability set or its own
    model_digests: Mapped[dict[str, Any]]  # {model id: {"weights", "tokenizer", "template"}} at submission


class EvaluationPrompt(Base):
    """One prompt that every arm answers."""

    __tablename__ = "evaluation_prompts"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    prompt_idx: Mapped[int] = mapped_column(primary_key=True)
    row_idx: Mapped[int]
    row_id: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(8))
    group: Mapped[str | None] = mapped_column("group_", Text)
    seen: Mapped[bool]  # its prompt or its group was used before


class EvaluationArm(Base):
    """One way to run the model: unchanged, with the real set, or with one drawn at random. Drawn at submission."""

    __tablename__ = "evaluation_arms"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    arm_idx: Mapped[int] = mapped_column(primary_key=True)
    family: Mapped[str] = mapped_column(String(16))  # baseline | real | random | load_matched
    model_id: Mapped[str] = mapped_column(String(300))
    experts: Mapped[list[Any]]  # [[layer, expert], ...]
    load_share: Mapped[float | None]  # of all expert choices of the analysis
    finished: Mapped[bool]
    effect: Mapped[dict[str, Any] | None]  # what the probe pass counted
    nll: Mapped[NDArray[Any] | None]  # float64 [text] nats of each answer
    nll_tokens: Mapped[NDArray[Any] | None]  # [text]
    picked: Mapped[NDArray[Any] | None]  # [question] the most likely choice


class EvaluationAnswer(Base):
    """What one arm answered to one prompt, and whether that refuses. n = arm_idx x prompts + prompt_idx."""

    __tablename__ = "evaluation_answers"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    arm_idx: Mapped[int]
    prompt_idx: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    n_tokens: Mapped[int]
    ended: Mapped[bool]  # with an end token, before max_new_tokens
    verdict: Mapped[str | None] = mapped_column(String(10))  # refused | answered | unclear; null: not judged yet
    why: Mapped[str | None] = mapped_column(Text)
    judge: Mapped[str | None] = mapped_column(String(400))  # name and version or digest
    overruled: Mapped[str | None] = mapped_column(String(10))  # a person's verdict, which counts instead


class EvaluationOverrule(Base):
    """Who changed a verdict, from what to what, why and when. Never deleted."""

    __tablename__ = "evaluation_overrules"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), index=True)
    n: Mapped[int]
    before: Mapped[str | None] = mapped_column(String(10))
    verdict: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column("by_", String(200))
    at: Mapped[str] = mapped_column(String(40), default=utcnow)


class Context(Run):
    """One second pass over an analysis, which reads the routing token by token: experts in context."""

    __tablename__ = "contexts"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id"), index=True)
    engine: Mapped[str] = mapped_column(String(20))  # the analysis': its queue depends on it
    scope: Mapped[str] = mapped_column(String(10))
    params: Mapped[dict[str, Any]]  # experts [[layer, expert], ...], top_tokens
    next_batch: Mapped[int] = mapped_column(default=0)  # the sums below hold all batches before this one
    result: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # recounted, dtype, samples, tokens


class ContextSite(Base):
    """Which experts of one MoE site were chosen for the same tokens."""

    __tablename__ = "context_sites"

    context_id: Mapped[str] = mapped_column(ForeignKey("contexts.id", ondelete="CASCADE"), primary_key=True)
    site: Mapped[int] = mapped_column(primary_key=True)  # position among the analysis' sites
    pairs: Mapped[NDArray[Any]]  # [label, a, b], a < b: tokens that were sent to both


class ContextTokens(Base):
    """The distinct counted tokens of a context run."""

    __tablename__ = "context_tokens"

    context_id: Mapped[str] = mapped_column(ForeignKey("contexts.id", ondelete="CASCADE"), primary_key=True)
    ids: Mapped[NDArray[Any]]  # [id] ascending
    occurrences: Mapped[NDArray[Any]]  # [label, id]
    texts: Mapped[list[Any]]  # [id] as the tokenizer shows it; empty until the run has finished


class ContextExpert(Base):
    """What each distinct token did for one expert."""

    __tablename__ = "context_experts"

    context_id: Mapped[str] = mapped_column(ForeignKey("contexts.id", ondelete="CASCADE"), primary_key=True)
    site: Mapped[int] = mapped_column(primary_key=True)
    expert: Mapped[int] = mapped_column(primary_key=True)
    hits: Mapped[NDArray[Any]]  # [label, id] occurrences sent to the expert
    shares: Mapped[NDArray[Any]]  # [label, id] sum over prompts of hits / tokens, fixed point (risk.RATE_SCALE)


class Study(Run):
    """The same training with batches preserved and with samples reshuffled, several seeds each, side by side."""

    __tablename__ = "studies"

    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id"), index=True)
    expert_set_id: Mapped[str] = mapped_column(ForeignKey("expert_sets.id"), index=True)
    params: Mapped[dict[str, Any]]  # seeds, training, evaluation, estimate: the request with every default filled in
    result: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # what was found; empty until it has succeeded
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the result


class StudyRun(Base):
    """A run that a study consists of. Noted before the run exists, so that a study taken up again makes it once."""

    __tablename__ = "study_runs"

    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    wave: Mapped[int]  # those of one wave go on side by side
    role: Mapped[str] = mapped_column(String(12))  # training | causal | analysis | evaluation | comparison
    arm: Mapped[str | None] = mapped_column(String(10))  # preserved | shuffled; null: of neither
    seed: Mapped[int | None]
    kind: Mapped[str] = mapped_column(String(20))  # a key of RUNS
    run_id: Mapped[str | None] = mapped_column(String(40), index=True)


class Job(Base):
    """One piece of queued work. id is the workflow id in the queue; the resource it serves is `subject_id`."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_kind_status", "kind", "status"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))  # a key of RUNS, or scan
    subject_id: Mapped[str] = mapped_column(String(40), index=True)
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    priority: Mapped[int] = mapped_column(default=PRIORITY, server_default=str(PRIORITY))  # smaller goes first
    error: Mapped[str | None] = mapped_column(Text)
    executor_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    started_at: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[str | None] = mapped_column(String(40))


class Attempt(Base):
    """How often a piece of queued work was begun at the same place: what ends its worker each time ends it for good."""

    __tablename__ = "attempts"

    work: Mapped[str] = mapped_column(String(100), primary_key=True)  # a shard or a run of one stage, by its name
    mark: Mapped[str] = mapped_column(String(80))  # what was done when it was begun last
    n: Mapped[int]
    token: Mapped[str] = mapped_column(String(40), server_default="")  # of the beginning that may write


class Tally(Base):
    """How long pieces of work took, counted as they land: what metrics sum, whoever did it and whatever is deleted."""

    __tablename__ = "tallies"

    subject_id: Mapped[str] = mapped_column(String(40), primary_key=True)  # the run that the pieces belong to
    what: Mapped[str] = mapped_column(String(20), primary_key=True)  # a key of tallies.BUCKETS
    bucket: Mapped[int] = mapped_column(primary_key=True)  # position among the bounds of tallies.BUCKETS
    n: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    tokens: Mapped[int] = mapped_column(BigInteger)


class JobLog(Base):
    """A line of a job's log."""

    __tablename__ = "job_logs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(80), index=True)
    at: Mapped[str] = mapped_column(String(40), default=utcnow)
    level: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """The heartbeat of one worker process."""

    __tablename__ = "workers"

    executor_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(200))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the GPU; on a CPU, by the worker itself
    engines: Mapped[list[Any]]
    model_loaded: Mapped[str | None] = mapped_column(String(300))
    versions: Mapped[dict[str, Any]]
    started_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    last_seen: Mapped[str] = mapped_column(String(40), default=utcnow)


class IdempotencyKey(Base):
    """The first answer to a POST that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)


RUNS: dict[str, type[Run]] = {
    "analysis": Analysis,
    "training": Training,
    "statistics": Statistics,
    "evaluation": Evaluation,
    "comparison": Comparison,
    "context": Context,
    "study": Study,
}
"""Kind of job -> what it works on. A kind is also the noun for one such thing."""
