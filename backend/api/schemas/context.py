"""Load, co-activation and the tokens that drive an expert, over REST."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.common import Answer, Name, PoolWord, Request, RunnableOut, ScopeWord, SiteOut

LoadLabel = Literal["all", "safe", "unsafe"]
PairOrder = Literal["excess", "lift", "count"]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]


class LoadOut(Answer):
    """How the counted tokens spread over the experts, one row per site of `sites`, one column per expert.

    rate: activations per token, over the experts of a site they sum to its top-k. relative: 1 is an even share.
    entropy: per site, of the shares over that of even shares: 1 is even, 0 is one expert. effective_experts: per site,
    how many evenly used experts would have that entropy. dead: [layer, expert] that no counted token reached.
    """

    analysis_id: str
    scope: ScopeWord
    label: LoadLabel
    layers: list[int]
    sites: list[SiteOut]
    n_experts: int
    n_batches: int
    tokens: int
    rate: list[list[float | None]] | None
    relative: list[list[float | None]] | None
    entropy: list[float] | None
    effective_experts: list[float] | None
    dead: list[tuple[int, int]]
    reason: str | None


class ContextCreate(Request):
    """Run an analysis' stored token ids through its engine again and read the routing of single tokens.

    experts: [[layer, expert], ...] whose tokens are looked at; null: the 64 with the largest |risk_diff| (pool mean).
    top_tokens: how many tokens an expert shows when nobody asks for another number.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"scope": "prompt", "top_tokens": 10}]})

    scope: ScopeWord = "prompt"
    experts: Annotated[tuple[tuple[Whole, Whole], ...], Field(min_length=1, max_length=256)] | None = None
    top_tokens: Annotated[int, Field(strict=True, ge=1, le=200)] = 20
    name: Name | None = None


class RecountedOut(Answer):
    """Whether this pass counted what the analysis stored. non_finite: batches that count in neither."""

    batches: int
    differing: int
    counts: int
    differing_counts: int
    non_finite: int


class ContextOut(RunnableOut):
    """One context run. recounted and dtype are null until a first window is counted."""

    analysis_id: str
    engine: str
    scope: ScopeWord
    params: dict[str, Any]
    n_experts: int
    recounted: RecountedOut | None
    dtype: str | None


class PairOut(Answer):
    """Two experts of one site. lift: observed / expected."""

    a: int
    b: int
    observed: int
    expected: float
    lift: float | None


class CoactivationOut(Answer):
    """How often two experts of a layer were chosen for the same token.

    expected(a, b) = pairs x count_a x count_b / sum over all i < j of count_i x count_j: what independence would give.
    observed, lift: [expert][expert], symmetric; null with `matrix=false`; lift in four decimals, null where nothing is
    expected. pairs: tokens x k(k-1)/2.
    """

    context_id: str
    scope: ScopeWord
    label: LoadLabel
    layer: int
    site: str
    n_experts: int
    top_k: int
    n_batches: int
    pairs: int
    order: PairOrder
    top_pairs: list[PairOut]
    observed: list[list[int]] | None
    lift: list[list[float | None]] | None
    reason: str | None


class DrivingTokenOut(Answer):
    """One token id and what it contributes to an expert's risk_diff.

    text: what it stands for, white space visible. hits: occurrences that were sent to the expert. share: of risk_diff.
    """

    token_id: int
    text: str
    hits_safe: int
    hits_unsafe: int
    occurrences_safe: int
    occurrences_unsafe: int
    contribution: float
    share: float | None


class ContextExpertOut(Answer):
    """One expert of a context run in a line: its risk_diff, and whether a few tokens make it.

    concentration: share of the five largest |contributions| in the sum of all. top: the token with the largest one.
    """

    layer: int
    expert: int
    site: str
    hits_safe: int
    hits_unsafe: int
    risk_diff: float | None
    concentration: float | None
    n_tokens: int
    top: DrivingTokenOut | None
    reason: str | None


class ExpertTokensOut(ContextExpertOut):
    """The tokens that drive an expert: raising risk_diff and lowering it, the largest first.

    rest: what all other tokens contribute together, so that everything adds up to risk_diff. analysis_risk_diff: what
    the analysis stored; the same number where the recount agrees.
    """

    context_id: str
    scope: ScopeWord
    pool: PoolWord
    n_batches: int
    analysis_risk_diff: float | None
    raising: list[DrivingTokenOut]
    lowering: list[DrivingTokenOut]
    rest: float | None
