"""The causal check: what each arm was asked and answered, and whether that refuses."""

from typing import Any

from numpy.typing import NDArray
from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.schema.base import Base, Run, utcnow


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
    """Who changed a verdict, from what to what, why and when. Goes only with its evaluation."""

    __tablename__ = "evaluation_overrules"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), index=True)
    n: Mapped[int]
    before: Mapped[str | None] = mapped_column(String(10))
    verdict: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column("by_", String(200))
    at: Mapped[str] = mapped_column(String(40), default=utcnow)
