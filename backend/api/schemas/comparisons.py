"""Published risk tables and comparisons over REST."""

from typing import Any, Literal

from backend.api.schemas.common import Answer


class RiskTableOut(Answer):
    """A published risk table. `reading` says how its columns were understood, and how many cells have no rate."""

    id: str
    name: str
    sha256: str
    model: str
    file: dict[str, Any]
    reading: dict[str, Any]
    label_meaning: dict[str, str]
    layers: list[int]
    n_experts: int
    n_rows: int
    created_at: str


class TableRiskOut(Answer):
    """risk_diff [layer][expert] of a published table, recomputed from its counts in our sign. Null: no tokens."""

    risk_table_id: str
    pool: Literal["pooled"]
    layers: list[int]
    n_experts: int
    risk_diff: list[list[float | None]]
    rate_safe: list[list[float | None]]
    rate_unsafe: list[list[float | None]]
    max_abs: float | None
    reasons: dict[str, int]
