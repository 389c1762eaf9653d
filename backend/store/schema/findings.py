"""What is read out of measurements: statistics, expert sets, comparisons, experts in context."""

from typing import Any

from numpy.typing import NDArray
from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.arrays import Array
from backend.store.schema.base import Base, Run, utcnow


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
