"""The batches of a training over REST, and why they fell as they did."""

from typing import Literal

from pydantic import Field

from backend.api.schemas.common import Answer, LabelWord

LossWord = Literal["all", "safe", "unsafe"]
VerdictWord = Literal["beyond", "gone", "none", "control", "constant", "aliased", "absent"]


class TrainedBatchRow(Answer):
    """One batch of a training. Every loss is the one recorded in a step, before its update.

    loss_first, loss_last: at the first visit and in the last complete epoch; fall = loss_first - loss_last, null with
    fewer than two complete epochs. fall_per_epoch: fall over the epochs between the two. relative_fall: over
    loss_first. expected: what its first loss and place in the run foretell (of `fall`; with one epoch, of
    `loss_first`); z: modified z-score of the rest; unusual: |z| > 5. verified: of all its visits. The rest are the
    features that the explanation looks at.
    """

    batch_idx: int
    batch_id: str
    n_safe: int
    n_unsafe: int
    n_visits: int
    step_first: int | None
    step_last: int | None
    loss_first: float | None
    loss_last: float | None
    fall: float | None
    relative_fall: float | None
    fall_per_epoch: float | None
    expected: float | None
    z: float | None
    unusual: bool | None
    verified: bool | None
    max_abs_risk_diff: float | None
    risk_above_floor: float | None
    set_abs_risk_diff: float | None
    set_load: float | None
    share_unsafe: float | None
    n_samples: float | None
    n_groups: float | None
    n_sources: float | None
    prompt_tokens: float | None
    answer_tokens: float | None


class TrainedBatchOut(TrainedBatchRow):
    """One batch of a training. losses: at every visit so far, in order."""

    losses: list[float | None]


class VisitOut(Answer):
    """One step that was trained on the batch."""

    step: int
    epoch: int
    loss: float | None
    loss_safe: float | None
    loss_unsafe: float | None
    grad_norm: float | None
    learning_rate: float
    verified: bool | None


class SampleLossesOut(Answer):
    """One sample of the batch: its loss at every visit, in the order of `visits`; fall: first less last visit."""

    in_batch_idx: int
    row_id: str
    label: LabelWord
    prompt_tokens: int | None
    answer_tokens: int | None
    target: str | None
    losses: list[float | None]
    fall: float | None


class TrainedBatchDetailOut(TrainedBatchOut):
    """One batch of a training with its visits and its samples' losses over the epochs."""

    training_id: str
    analysis_id: str
    visits: list[VisitOut]
    samples: list[SampleLossesOut]


class SampleVisitRow(Answer):
    """One sample at one visit: a line of the file."""

    in_batch_idx: int
    row_id: str
    label: LabelWord
    epoch: int
    step: int
    loss: float | None


class FigureOut(Answer):
    """What one feature has to do with the outcome, over batches.

    rho: Spearman's rank correlation as it is; p by permutation of batches, p_family with all features as one family
    (max-T). rho_beyond, p_beyond, p_family_beyond: the same after the controls are taken out of both; only these are
    called a relation. n_distinct: different values among the batches.
    """

    key: str
    name: str
    what: str
    verdict: VerdictWord
    verdict_words: str
    n_distinct: int
    rho: float | None
    p: float | None
    p_family: float | None
    rho_beyond: float | None
    p_beyond: float | None
    p_family_beyond: float | None


class UnusualOut(Answer):
    """A batch far from what its first loss and place in the run foretell. side: better fell more, worse fell less.

    With one complete epoch: harder and easier, by the loss at the first visit.
    """

    batch_idx: int
    value: float
    expected: float
    z: float
    side: Literal["better", "worse", "harder", "easier"]


class LeftOutBatchOut(Answer):
    """A batch that no figure stands on."""

    batch_idx: int
    reason: str


class ExplanationOut(Answer):
    """Why batches did well or badly, as far as that can be said: associations over batches, never causes.

    reason: why nothing can be said, else null. smallest_p: the smallest p that n_permutations allow. findings: what
    may be said, in words; method: how it was found, and what it does not say.
    """

    training_id: str
    outcome: Literal["fall", "loss"]
    loss: LossWord
    scope: str
    n_complete: int = Field(description="Epochs in which every batch was visited.")
    n_batches: int
    n_used: int
    reason: str | None
    controls: list[str]
    n_permutations: int
    seed: int
    alpha: float
    smallest_p: float | None
    outlier_limit: float
    figures: list[FigureOut]
    unusual: list[UnusualOut]
    left_out: list[LeftOutBatchOut]
    findings: list[str]
    method: list[str]
