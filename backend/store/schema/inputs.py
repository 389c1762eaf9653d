"""What is brought in before anything is measured: prompt sets, models, published risk tables."""

from typing import Any

from numpy.typing import NDArray
from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.schema.base import Base, Kept, utcnow


class Dataset(Kept):
    """A prompt set: content-addressed, immutable but for its name, tags and notes."""

    __tablename__ = "datasets"

    sha256: Mapped[str] = mapped_column(String(64), index=True)
    label_meaning: Mapped[dict[str, Any]]  # {"kind": ..., "safe": "...", "unsafe": "..."}
    n_rows: Mapped[int]
    n_safe: Mapped[int]
    n_unsafe: Mapped[int]
    n_duplicates: Mapped[int]
    status: Mapped[str] = mapped_column(String(16), default="succeeded", index=True)
    stored: Mapped[int] = mapped_column(default=0)  # rows that are there: n_rows, once it succeeded
    files: Mapped[list[Any]]  # [{"name", "sha256", "bytes", "mapping", "label", "n_rows", "left_out": {reason: rows}}]
    left_out: Mapped[list[Any]] = mapped_column(JSON, default=list, deferred=True)  # [{"file", "row", "reason"}], first


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
