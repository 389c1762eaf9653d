"""What was measured. Integer counts are the truth; floats beside them are derived from them.

One analysis batch is one transaction: its row in `analysis_batches`, its `batch_samples`, its `batch_routing` per
scope and its share of `analysis_aggregates` land together (see ../writes.py).
"""

from typing import Any

from numpy.typing import NDArray
from sqlalchemy import ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.arrays import Digest
from backend.store.schema.base import Base, Run


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
