"""Statistics over REST. A number that cannot be given is null, and a `reason` beside it says why."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.analyses import ExpertRowOut
from backend.api.schemas.common import Answer, Listing, Name, PoolWord, Request, RunnableOut, ScopeWord, SiteOut

Matrix = list[list[float | None]]


class StatisticsCreate(Request):
    """Test, bound and cross-check the figures of a finished analysis. Every field has a default.

    strata: labels are never exchanged across its values (a column of the prompt set). stability_top_k: judge the choice
    of the k largest |risk_diff|; null: the choice that the permutation test makes.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"scope": "prompt", "pool": "pooled", "strata": "difficulty", "n_permutations": 2000}]
        }
    )

    scope: ScopeWord = "prompt"
    pool: PoolWord = "mean"
    strata: Literal["category", "difficulty", "source"] | None = None
    n_permutations: Annotated[int, Field(strict=True, ge=19, le=1_000_000)] = 10_000
    n_resamples: Annotated[int, Field(strict=True, ge=99, le=100_000)] = 1999
    n_stability: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 200
    n_splits: Annotated[int, Field(strict=True, ge=2, le=1000)] = 50
    level: Annotated[float, Field(strict=True, ge=0.5, le=0.999)] = 0.95
    alpha: Annotated[float, Field(strict=True, ge=0.0001, le=0.5)] = 0.05
    stability_top_k: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    name: Name | None = None


class DesignOut(Answer):
    """What the permutation test may exchange, and why. n_fixed: prompts that no permutation moves."""

    scheme: Literal["prompts", "sign_flips", "inside_groups", "whole_groups", "mixed", "not_testable"]
    reason: str
    unit_name: str
    n_units: int
    n_units_safe: int
    n_units_unsafe: int
    n_units_both: int
    n_fixed: int


class IntervalsOut(Answer):
    """How the intervals were made. n_given: experts that have one."""

    level: float
    n_resamples: int
    unit_name: str
    n_units: int
    reason: str
    n_given: int = 0


class StabilityOut(Answer):
    """How much a choice owes to these very prompts; `rule` says the choice in words.

    jaccard: what both halves choose over what either does. risk_diff_in_half: mean |risk_diff| of what one half chose,
    measured there; risk_diff_in_other: measured in the other half.
    """

    rule: str
    reason: str
    n_resamples: int | None = None
    n_splits: int | None = None
    jaccard: float | None = None
    jaccard_by_chance: float | None = None
    correlation: float | None = None
    risk_diff_in_half: float | None = None
    risk_diff_in_other: float | None = None


class AucOut(Answer):
    """Area under the ROC curve on held-out groups with its 95 % interval (or a difference of two); 0.5 is chance."""

    auc: float | None
    low: float | None
    high: float | None


class BaselinesOut(Answer):
    """How well routing tells unsafe from safe, beside prompt length alone and the bag of token ids alone."""

    reason: str
    routing: AucOut | None = None
    length: AucOut | None = None
    tokens: AucOut | None = None
    routing_and_tokens: AucOut | None = None
    routing_less_length: AucOut | None = None
    routing_less_tokens: AucOut | None = None
    added_to_tokens: AucOut | None = None
    n_used: int = 0
    n_folds: int = 0


class LargestDriftOut(Answer):
    """The expert whose risk_diff drifts most. slope: change from the first to the last batch."""

    layer: int
    site: str
    expert: int
    slope: float


class DriftOut(Answer):
    """Whether risk_diff changes over the batches. correlation: of the first half of the batches with the second."""

    reason: str
    n_batches: int
    p: float | None = None
    smallest_p: float | None = None
    correlation: float | None = None
    largest: LargestDriftOut | None = None


class DriftBatchOut(Answer):
    """One batch. distance: root mean square, over all experts, of its risk_diff less the mean of all batches."""

    batch_idx: int
    distance: float | None


class DriftBatchesOut(Answer):
    """The distances of all batches, in their order; null where a batch has no risk_diff."""

    statistics_id: str
    items: list[DriftBatchOut]


class SiteLoadOut(Answer):
    """How evenly one site spreads its tokens. entropy: 1 is perfectly even, 0 one expert."""

    layer: int
    site: str
    entropy: float
    effective_experts: float


class LoadOut(Answer):
    """How much the experts work at all. dead: experts that no counted token reached (the first hundred)."""

    reason: str
    n_dead: int = 0
    dead: list[tuple[int, int]] = Field(default_factory=list)
    layers: list[SiteLoadOut] = Field(default_factory=list)


class SummaryOut(Answer):
    """What the statistics say in short.

    n_significant: experts with p_max_t <= alpha; n_q05: with q <= 0.05. smallest_p: the smallest p-value that could
    have come out. exact: all arrangements were tried. critical_t: an expert with a larger |t| is significant.
    """

    n_batches: int
    n_batches_non_finite: int
    n_prompts: int
    n_safe: int
    n_unsafe: int
    n_left_out_non_finite: int
    n_left_out_without_tokens: int
    design: DesignOut
    exact: bool
    smallest_p: float | None
    n_arrangements: int
    alpha: float
    critical_t: float | None
    n_tested: int
    n_significant: int
    n_significant_unsafe: int
    n_significant_safe: int
    n_q05: int
    intervals: IntervalsOut
    stability: StabilityOut
    baselines: BaselinesOut
    drift: DriftOut
    load: LoadOut


class StatisticsOut(RunnableOut):
    """Statistics of one scope and pool of an analysis. `summary` is null until they have succeeded.

    input_digest: SHA-256 of the prompts and counts they stand on. sha256: of those, the request and the findings.
    """

    analysis_id: str
    scope: ScopeWord
    pool: PoolWord
    params: dict[str, Any]
    input_digest: str | None
    sha256: str | None
    summary: SummaryOut | None


class ExpertListing(Listing[ExpertRowOut]):
    """A page of experts, and the statistics that their test columns come from (null: there are none yet)."""

    statistics_id: str | None


class StatisticsTableOut(Answer):
    """The figures as matrices [site][expert]; null where there is none."""

    statistics_id: str
    analysis_id: str
    scope: ScopeWord
    pool: PoolWord
    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    difference: Matrix
    t: Matrix
    p: Matrix
    p_max_t: Matrix
    q: Matrix
    standard_error: Matrix
    ci_low: Matrix
    ci_high: Matrix
    frequency: Matrix
    drift_slope: Matrix
    load: Matrix
