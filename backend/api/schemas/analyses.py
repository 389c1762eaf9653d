"""Analyses over REST."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.common import (
    Answer,
    Flag,
    Id,
    LabelWord,
    ModelId,
    Name,
    PoolWord,
    Priority,
    Request,
    RunnableOut,
    ScopeWord,
    SiteOut,
    Status,
    Text,
)
from backend.api.schemas.datasets import MessageOut
from backend.api.schemas.estimates import EstimateOut
from backend.domain.jobs import PRIORITY

Engine = Literal["transformers", "vllm"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
BatchStatus = Literal["measured", "non_finite", "planned"]


class EngineOptions(Request):
    """Settings of the engine `vllm`. max_model_len: longest row in tokens; null: what the request needs."""

    tensor_parallel_size: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    gpu_memory_utilization: Annotated[float, Field(strict=True, ge=0.05, le=1)] = 0.9
    max_model_len: Annotated[int, Field(strict=True, ge=2, le=10_000_000)] | None = None


class AnalysisCreate(Request):
    """Measure a batch plan of a prompt set on a model. Every field but the first two has a default.

    statistics: compute them, with their defaults, for every scope once all batches are measured.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"dataset_id": "ds_1f0c9a2b7d3e", "model": "demo"},
                {
                    "dataset_id": "ds_1f0c9a2b7d3e",
                    "model": "demo",
                    "name": "stratified, with answers",
                    "strategy": "stratified",
                    "stratify_by": ["difficulty"],
                    "scopes": ["prompt", "response"],
                    "max_new_tokens": 32,
                },
            ]
        }
    )

    dataset_id: Id
    model: ModelId
    engine: Engine = "transformers"
    engine_options: EngineOptions | None = None
    batch_size: Annotated[int, Field(strict=True, ge=2, le=4096)] = 16
    safe_ratio: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.5
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    strategy: Literal["shuffled", "as_listed", "stratified", "paired"] = "shuffled"
    stratify_by: Annotated[
        tuple[Literal["difficulty", "category", "group"], ...], Field(min_length=1, max_length=3)
    ] = ("difficulty",)
    keep_short: Flag = True
    max_length: Annotated[int, Field(strict=True, ge=1, le=131_072)] = 512
    scopes: Annotated[tuple[ScopeWord, ...], Field(min_length=1, max_length=3)] = ("prompt",)
    max_new_tokens: Annotated[int, Field(strict=True, ge=0, le=8192)] = 0
    system_prompt: Text | None = None
    exclude_template_tokens: Annotated[
        Flag,
        Field(
            description="Scope `prompt` counts the tokens of the row's own messages alone: role markers, special "
            "tokens, the generation prompt, the template's words and `system_prompt` are left out. A token that holds "
            "own and other characters counts. Scope `last` stays the last prompt token, whatever it is. Without a chat "
            "template nothing is left out."
        ),
    ] = False
    dtype: Dtype = "auto"
    plan_of: Id | None = None
    statistics: Flag = True
    priority: Priority = PRIORITY
    name: Name | None = None


class PlanOut(Answer):
    """The batch plan in numbers."""

    digest: str
    n_batches: int
    n_samples: int
    n_safe: int
    n_unsafe: int
    n_left_out: int
    left_out_reasons: dict[str, int]


class DryRunOut(Answer):
    """What POST /analyses would plan, and what that takes. Nothing was stored."""

    plan: PlanOut
    estimate: EstimateOut


class StatisticsHead(Answer):
    """Statistics of an analysis, and how far they are."""

    id: str
    scope: ScopeWord
    pool: PoolWord
    status: Status


class AnalysisOut(RunnableOut):
    """One batch plan measured, or being measured, on one model. statistics: newest first."""

    dataset_id: str
    dataset_name: str
    model: str
    engine: str
    params: dict[str, Any]
    plan: PlanOut
    sites: list[SiteOut]
    n_measured: int
    n_non_finite: int
    template: Literal["chat template", "plain encoding"]
    statistics: list[StatisticsHead]


class BatchOut(Answer):
    """One batch. A planned one has no figures yet; a non_finite one never gets any."""

    batch_idx: int
    batch_id: str
    status: BatchStatus
    n_safe: int
    n_unsafe: int
    max_abs_risk_diff: float | None
    noise_floor: float | None
    n_truncated: int


class SampleOut(Answer):
    """One sample of a batch, as it was given to the model. Unmeasured: tokens and prompt_digest are null.

    own_tokens: how many of its tokens count in scope `prompt`, where the chat template's are left out; else null.
    """

    in_batch_idx: int
    label: LabelWord
    row_id: str
    row_idx: int
    text: str
    messages: list[MessageOut]
    response: str | None
    category: str | None
    difficulty: str | None
    group: str | None
    tokens: int | None
    own_tokens: int | None
    truncated: bool | None
    non_finite: bool | None
    prompt_digest: str | None
    answer: str | None


class BatchDetailOut(BatchOut):
    """One batch with its samples, safe ones first."""

    samples: list[SampleOut]


class SampleRoutingOut(Answer):
    """How many of one sample's tokens every expert received, one row per site of `sites`, one column per expert.

    rates: counts over tokens. null where a site has no such expert, or where `reason` says why nothing can be said.
    """

    analysis_id: str
    batch_idx: int
    in_batch_idx: int
    row_id: str
    label: LabelWord
    scope: ScopeWord
    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    tokens: int | None
    counts: list[list[int | None]] | None
    rates: list[list[float | None]] | None
    reason: str | None


class BatchTrainingOut(Answer):
    """One training step that used this batch. losses: of its samples, by in_batch_idx."""

    training_id: str
    training_name: str
    step: int
    epoch: int
    loss: float | None
    loss_safe: float | None
    loss_unsafe: float | None
    losses: list[float | None]
    verified: bool | None


class LeftOutOut(Answer):
    """A prompt that stands in no batch, and why."""

    row_idx: int
    row_id: str
    label: LabelWord
    text: str
    reason: str


class RiskDiffOut(Answer):
    """risk_diff = rate_unsafe - rate_safe, one row per site of `sites`, one column per expert.

    null where a site has no such expert, or where `reason` says why nothing can be said.
    """

    analysis_id: str
    scope: ScopeWord
    pool: PoolWord
    batch_idx: int | None
    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    n_batches: int
    n_batches_total: int
    risk_diff: list[list[float | None]] | None
    rate_safe: list[list[float | None]] | None
    rate_unsafe: list[list[float | None]] | None
    tokens_safe: int
    tokens_unsafe: int
    n_safe: int
    n_unsafe: int
    max_abs: float | None
    noise_floor: float | None
    noise_floor_cells: list[list[float | None]] | None
    non_finite: bool
    reason: str | None


class ExpertRowOut(Answer):
    """One expert's figures: the columns of every risk table, and what the statistics say (null without them).

    ci_low, ci_high: of risk_diff. p: of this expert alone; p_max_t: with all experts as one family; q: by
    Benjamini-Hochberg. frequency: how often it is chosen from other prompts. load: 1 is an even share of the tokens.
    """

    layer: int
    expert: int
    site: str
    count_safe: int
    count_unsafe: int
    tokens_safe: int
    tokens_unsafe: int
    rate_safe: float | None
    rate_unsafe: float | None
    risk_diff: float | None
    ci_low: float | None
    ci_high: float | None
    standard_error: float | None
    t: float | None
    p: float | None
    p_max_t: float | None
    q: float | None
    frequency: float | None
    drift_slope: float | None
    load: float | None


class ExpertBatchOut(Answer):
    """An expert's risk_diff in one batch, and that batch's noise floor."""

    batch_idx: int
    risk_diff: float | None
    noise_floor: float | None


class ExpertDetailOut(ExpertRowOut):
    """One expert over all batches. `statistics_id`: where the test columns come from."""

    statistics_id: str | None
    batches: list[ExpertBatchOut]
