"""Published risk tables and comparisons over REST."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.common import Answer, Flag, Id, Name, PoolWord, Request, RunnableOut, ScopeWord, SiteOut


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


class ComparisonCreate(Request):
    """Compare two sides: each an analysis (an_...) or a published table (rt_...). The difference is b − a.

    scope, pool: left out, the first scope that both counted, and `mean` (`pooled` where a table takes part). intervals:
    draw the prompts anew, as a run; paired where both analyses measured the same plan.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"analysis_a": "an_1f0c9a2b7d3e", "analysis_b": "an_5b0e6a71c2d9"},
                {"analysis_a": "an_1f0c9a2b7d3e", "analysis_b": "an_5b0e6a71c2d9", "intervals": True, "pool": "mean"},
            ]
        }
    )

    analysis_a: Id
    analysis_b: Id
    scope: ScopeWord | None = None
    pool: PoolWord | None = None
    name: Name | None = None
    intervals: Flag = False
    n_resamples: Annotated[int, Field(strict=True, ge=199, le=9999)] = 1999
    level: Annotated[float, Field(ge=0.5, le=0.995)] = 0.95
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0


class ComparisonOut(RunnableOut):
    """A comparison. `result` has the figures that need no matrix.

    result: sides (what each is), pairing (same_plan, and which intervals that allows), trained (which side was trained
    here, its experts, the drift inside and outside them), drift, layers (per MoE site), overlap of the top experts,
    correlation, movers, intervals (null until they are computed).
    """

    analysis_a: str
    analysis_b: str
    scope: ScopeWord
    pool: PoolWord
    params: dict[str, Any]
    has_intervals: bool
    result: dict[str, Any]


Rows = list[list[float | None]]


class ComparisonDetailOut(ComparisonOut):
    """A comparison with its matrices [site][expert] on one scale (`max_abs`). low, high: of the difference, or null."""

    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    max_abs: float
    risk_diff_a: Rows
    risk_diff_b: Rows
    difference: Rows
    low: Rows | None
    high: Rows | None


class SideBySideOut(Answer):
    """2 to 8 sides on one scale (`max_abs`). risk_diff: [side][site][expert], in the order that was asked for.

    sides: what each is. pairs: drift, correlation and overlap of every two (`a`, `b`: places in `sides`). movers: the
    experts whose risk_diff spreads most, each with its risk_diff on every side. max_difference: of any two sides.
    """

    sides: list[dict[str, Any]]
    scope: ScopeWord
    pool: PoolWord
    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    n_cells: int
    max_abs: float
    max_difference: float
    risk_diff: list[Rows]
    pairs: list[dict[str, Any]]
    movers: list[dict[str, Any]]
