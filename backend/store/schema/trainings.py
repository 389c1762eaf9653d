"""Trainings, step by step, and the studies that set several side by side."""

from typing import Any

from numpy.typing import NDArray
from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.schema.base import Base, Run


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
