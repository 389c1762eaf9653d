"""Expert sets over REST."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.common import Answer, Id, Name, PoolWord, Request, ScopeWord

Kind = Literal["global", "per_batch"]
Index = Annotated[int, Field(strict=True, ge=0, le=100_000)]


class ExpertSetCreate(Request):
    """Choose experts of an analysis by a rule. threshold, k and share belong to their methods, experts to manual.

    significant: every expert whose p_max_t (correction max_t) or q (bh) is at most alpha; needs finished statistics of
    the scope and pool (the newest, or `statistics_id`). cumulative: the fewest experts, the largest first, that carry
    `share` of the summed |risk_diff| of the direction.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "top 8 unsafe", "method": "top_k", "k": 8},
                {"name": "above 0.05 in each batch", "method": "threshold", "threshold": 0.05, "kind": "per_batch"},
                {"name": "half of the difference", "method": "cumulative", "share": 0.5},
                {"name": "by hand", "method": "manual", "experts": [[0, 1], [1, 3]]},
            ]
        }
    )

    name: Name | None = None
    method: Literal["threshold", "top_k", "top_k_per_layer", "significant", "cumulative", "manual"]
    kind: Kind = "global"
    pool: PoolWord = "mean"
    scope: ScopeWord = "prompt"
    direction: Literal["unsafe", "safe", "both"] = "unsafe"
    threshold: Annotated[float, Field(strict=True, ge=0, le=1e6)] | None = None
    k: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    share: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    alpha: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    correction: Literal["max_t", "bh"] | None = None
    statistics_id: Id | None = None
    experts: Annotated[list[tuple[Index, Index]], Field(min_length=1, max_length=100_000)] | None = None


class ExpertSetImport(Request):
    """A set that was chosen elsewhere, as JSON. `config` is what its file would hold."""

    config: dict[str, Any]
    name: Name | None = None
    filename: Name = "request body"


class LayerCount(Answer):
    """How many experts of a layer were chosen."""

    layer: int
    n: int


class PerBatchOut(Answer):
    """Sizes of the batches' own sets."""

    n_batches: int
    min: int
    median: float
    max: int


class ExpertSetOut(Answer):
    """A chosen set of (layer, expert). For per_batch, `experts` is the union over batches. A dry run has no id.

    share_of_experts: n_experts over n_total; a rule that keeps most of them chooses little. statistics_id: what
    `significant` went by.
    """

    id: str | None
    name: str
    sha256: str
    n_experts: int
    n_total: int
    share_of_experts: float
    experts: list[tuple[int, int]]
    per_layer: list[LayerCount]
    kind: Kind
    rule: dict[str, Any]
    statistics_id: str | None
    per_batch: PerBatchOut | None
    analysis_id: str
    created_at: str | None
