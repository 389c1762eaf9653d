"""Evaluations over REST: the causal check of an expert set."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from backend.api.schemas.analyses import Dtype
from backend.api.schemas.common import (
    Answer,
    Clean,
    Flag,
    Id,
    LabelWord,
    ModelId,
    Name,
    Priority,
    Request,
    RunnableOut,
    Text,
    Word,
)
from backend.domain.jobs import PRIORITY

InterventionWord = Literal["none", "deactivate", "activate", "trained"]
VerdictWord = Literal["refused", "answered", "unclear"]
FamilyWord = Literal["baseline", "real", "random", "load_matched"]
Short = Annotated[str, Field(min_length=1, max_length=2000), Clean]


class JudgeIn(Request):
    """Who says whether an answer refuses. phrases: our list of opening phrases; classifier: a local text classifier.

    model: folder of the classifier below the models folder; label: the name of its class that means refusal; reads:
    the answer alone, or prompt and answer as a pair. endpoint: the OpenAI-compatible one that the services' environment
    names.
    """

    kind: Literal["phrases", "classifier", "endpoint"] = "phrases"
    model: ModelId | None = None
    label: Word | None = None
    reads: Literal["answer", "pair"] = "answer"

    @model_validator(mode="after")
    def _complete(self) -> "JudgeIn":
        if self.kind == "classifier" and not (self.model and self.label):
            raise ValueError("a classifier needs `model` (its folder) and `label` (the class that means refusal)")
        if self.kind != "classifier" and (self.model or self.label):
            raise ValueError(f"`model` and `label` mean nothing to the judge {self.kind!r}")
        return self


class ChoiceIn(Request):
    """One multiple-choice question. answer: position of the right choice, from 0."""

    prompt: Short
    choices: Annotated[list[Short], Field(min_length=2, max_length=10)]
    answer: Annotated[int, Field(strict=True, ge=0, le=9)]

    @model_validator(mode="after")
    def _there(self) -> "ChoiceIn":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, but there are only {len(self.choices)} choices (from 0)")
        return self


class EvaluationCreate(Request):
    """Ask a model under an intervention, beside random expert sets. Every field but the first two has a default.

    n_random: null means 20, or none where nothing is steered. capability_dataset_id: whose responses the perplexity is
    measured on; null: the responses of the safe prompts. dtype, max_length and system_prompt: null means those of the
    analysis behind the expert set.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo", "dataset_id": "ds_1f0c9a2b7d3e", "expert_set_id": "es_1f0c9a2b7d3e"},
                {
                    "model": "demo",
                    "dataset_id": "ds_1f0c9a2b7d3e",
                    "expert_set_id": "es_1f0c9a2b7d3e",
                    "intervention": "activate",
                    "n_random": 50,
                    "max_new_tokens": 64,
                    "choices": [{"prompt": "What is 2 + 2?", "choices": ["Three.", "Four."], "answer": 1}],
                },
                {"model": "demo", "dataset_id": "ds_1f0c9a2b7d3e", "intervention": "none", "max_prompts": 200},
            ]
        }
    )

    model: ModelId
    dataset_id: Id
    expert_set_id: Id | None = None
    intervention: InterventionWord = "deactivate"
    n_random: Annotated[int, Field(strict=True, ge=0, le=1000)] | None = None
    controls: Annotated[
        tuple[Id, ...],
        Field(
            max_length=100,
            description="With intervention 'trained': trainings of other, randomly drawn sets of as many experts of "
            "every layer, in the same batches with the same settings; they stand beside it as its random sets.",
        ),
    ] = ()
    load_matched: Flag = True
    holdout: Flag = False
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1024)] = 32
    max_prompts: Annotated[int, Field(strict=True, ge=2, le=10_000)] = 100
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    judge: JudgeIn = JudgeIn()
    capability_dataset_id: Id | None = None
    choices: Annotated[tuple[ChoiceIn, ...], Field(max_length=500)] = ()
    dtype: Dtype | None = None
    max_length: Annotated[int, Field(strict=True, ge=1, le=131_072)] | None = None
    system_prompt: Text | None = None
    priority: Priority = PRIORITY
    name: Name | None = None


class ControlTrainingOut(Answer):
    """A finished training in the same batches. `why_not`: what keeps it from being a control; null: nothing does."""

    id: str
    name: str
    expert_set_id: str
    expert_set_name: str
    n_experts: int
    why_not: str | None


class SeenByOut(Answer):
    """How many of the prompts and groups one analysis or training has used."""

    kind: Literal["analysis", "training"]
    id: str
    n_prompts: int
    n_groups: int


class OverlapOut(Answer):
    """Whether the evaluation asks what was used before. `in_sample`: at least one prompt or group was."""

    in_sample: bool
    n_prompts: int
    n_seen_prompts: int
    n_groups: int
    n_seen_groups: int
    n_seen: int
    used_by: list[SeenByOut]


class EvaluationPlanOut(Answer):
    """What would be done, by a dry run. smallest_p: what a random family can show at best."""

    n_arms: int
    n_safe: int
    n_unsafe: int
    n_texts: int
    overlap: OverlapOut
    warnings: list[str]
    smallest_p: dict[str, float]


class EstimateOut(Answer):
    """A figure with its 95 % interval; null where it cannot be given, and `how` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_units: int
    how: str


class PairOut(Answer):
    """One figure for the baseline and one for the real set."""

    baseline: float | None
    real: float | None


class ControlsOut(Answer):
    """The random sets of one family. differences: to the baseline, one a set, quotients for the scale `ratio`.

    n_as_extreme: sets at least as far from the baseline as the real one, in either direction; p = (that + 1) / (n + 1).
    """

    family: FamilyWord
    arms: list[int]
    values: list[float | None]
    differences: list[float]
    mean_difference: float | None
    lowest: float | None
    highest: float | None
    n: int
    n_as_extreme: int | None
    p: float | None
    smallest_p: float


class MeasureOut(Answer):
    """One measure. scale `rate`: differences are subtracted; `ratio`: they are quotients to the baseline.

    n_left_out: answers that no verdict could be given to. before_overruling: the rates by the judge alone, where
    people changed verdicts.
    """

    key: str
    scale: Literal["rate", "ratio"]
    baseline: EstimateOut | None
    real: EstimateOut | None
    difference: EstimateOut | None
    n_left_out: PairOut
    before_overruling: PairOut | None
    controls: list[ControlsOut]


class EvaluationOut(RunnableOut):
    """One evaluation. `n_finished` of `n_arms` arms are done."""

    model: str
    dataset_id: str
    dataset_name: str
    label_meaning: dict[str, Any]
    capability_dataset_id: str | None
    expert_set_id: str | None
    expert_set_name: str | None
    analysis_id: str | None
    intervention: InterventionWord
    params: dict[str, Any]
    overlap: OverlapOut
    warnings: list[str]
    n_safe: int
    n_unsafe: int
    n_texts: int
    n_arms: int
    n_finished: int
    n_overruled: int


class EvaluationDetailOut(EvaluationOut):
    """One evaluation with what its finished arms say."""

    measures: list[MeasureOut]
    judges: list[str]


class ArmOut(Answer):
    """One arm. effect: what the probe pass counted. measures: {key: {value, change}}."""

    arm: int
    family: FamilyWord
    model: str
    experts: list[list[int]]
    load_share: float | None
    finished: bool
    effect: dict[str, Any] | None
    measures: dict[str, dict[str, EstimateOut | None]]


class EvaluationAnswerOut(Answer):
    """One answer with its prompt. `counts`: the verdict that counts: the person's where there is one."""

    n: int
    arm: int
    family: FamilyWord
    prompt_idx: int
    row_idx: int
    label: LabelWord
    group: str | None
    seen: bool
    prompt: str
    text: str
    n_tokens: int
    ended: bool
    verdict: VerdictWord | None
    why: str | None
    judge: str | None
    overruled: VerdictWord | None
    counts: VerdictWord | None


class OverruleIn(Request):
    """A person's verdict, with the reason and who it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"verdict": "answered", "reason": "It apologises, then explains how.", "by": "R. Reader"}]
        }
    )

    verdict: VerdictWord
    reason: Annotated[str, Field(min_length=1, max_length=2000), Clean]
    by: Name


class OverruleOut(Answer):
    """One entry of the record."""

    n: int
    before: VerdictWord | None
    verdict: VerdictWord
    reason: str
    by: str
    at: str


class JudgeOut(Answer):
    """One judge, whether it can be used here, and what it is."""

    kind: str
    available: bool
    what: str
