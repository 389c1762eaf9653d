"""Studies over REST: batches preserved against samples reshuffled, several seeds each."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from backend.api.schemas.common import Answer, Flag, Id, Name, Progress, Request, RunnableOut, Status
from backend.api.schemas.evaluations import ChoiceIn, JudgeIn, OverlapOut
from backend.api.schemas.experts import ExpertSetCreate
from backend.api.schemas.trainings import TrainingParams

ArmWord = Literal["preserved", "shuffled"]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
MOST_SEEDS = 50


class StudyEvaluation(Request):
    """What the trained models and the causal check are asked. The fields are those of an evaluation.

    holdout: leave out prompts, and groups, that the analysis or the training has used; what is asked is the same for
    every model.
    """

    dataset_id: Id
    holdout: Flag = True
    max_prompts: Annotated[int, Field(strict=True, ge=2, le=10_000)] = 100
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1024)] = 32
    seed: Seed = 0
    judge: JudgeIn = JudgeIn()
    capability_dataset_id: Id | None = None
    choices: Annotated[tuple[ChoiceIn, ...], Field(max_length=500)] = ()
    intervention: Literal["deactivate", "activate"] = "deactivate"
    n_random: Annotated[int, Field(strict=True, ge=0, le=1000)] = 20
    load_matched: Flag = True


class StudyCreate(Request):
    """Train with batches preserved and with samples reshuffled, once per seed each, and compare what comes out.

    expert_set_id or rule: the experts that are trained and checked; a rule is applied to the analysis and its set
    stored. training: parameters of every training; its seeds and preserve_batches are the study's.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "analysis_id": "an_1f0c9a2b7d3e",
                    "expert_set_id": "es_1f0c9a2b7d3e",
                    "evaluation": {"dataset_id": "ds_1f0c9a2b7d3e"},
                },
                {
                    "analysis_id": "an_1f0c9a2b7d3e",
                    "rule": {"method": "top_k", "k": 8},
                    "seeds": [0, 1, 2, 3, 4, 5, 6, 7],
                    "training": {"epochs": 2},
                    "evaluation": {"dataset_id": "ds_1f0c9a2b7d3e", "max_prompts": 200, "n_random": 50},
                },
            ]
        }
    )

    analysis_id: Id
    expert_set_id: Id | None = None
    rule: ExpertSetCreate | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2, max_length=MOST_SEEDS)] = (0, 1, 2, 3, 4)
    training: TrainingParams = TrainingParams()
    evaluation: StudyEvaluation
    name: Name | None = None

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("every seed can be used once only: the same seed twice is the same run twice")
        return value


class StudySizeOut(Answer):
    """What a study will do. runs: by role; n_measured: samples measured again; smallest_p_level: of a sign flip.

    work: prompts through the model, roughly, of one run of each role.
    """

    runs: dict[str, int]
    n_runs: int
    n_steps: int
    n_measured: int
    n_answers: int
    work: dict[str, float]
    smallest_p_level: float | None


class StudyPlanOut(Answer):
    """What would be done, by a dry run; nothing is stored. smallest_p: what each family of random sets can reach."""

    estimate: StudySizeOut
    n_experts: int
    n_safe: int
    n_unsafe: int
    n_arms: int
    overlap: OverlapOut
    warnings: list[str]
    smallest_p: dict[str, float]


class StudyRunOut(Answer):
    """One run that a study consists of. id is null until it is made, when the runs before it are done."""

    n: int
    wave: int
    role: Literal["training", "causal", "analysis", "evaluation", "comparison"]
    arm: ArmWord | None
    seed: int | None
    kind: str
    id: str | None
    name: str | None
    status: Status | None
    progress: Progress | None
    error: str | None


class VerdictOut(Answer):
    """One sentence or two, made from the figures. tone: shown, not_shown (which is not the same as none), untested."""

    key: str
    tone: Literal["shown", "not_shown", "untested"]
    text: str


class StudyOut(RunnableOut):
    """One study. `done` and `total` of its progress count runs. verdict: the answer to its primary question."""

    analysis_id: str
    analysis_name: str
    model: str
    expert_set_id: str
    expert_set_name: str
    n_experts: int
    dataset_id: str
    dataset_name: str
    params: dict[str, Any]
    sha256: str | None
    verdict: VerdictOut | None


class StudyDetailOut(StudyOut):
    """One study with its runs and what was found.

    result: empty until it has succeeded; then measures, maps, varies, causal, verdicts, runs. Differences are
    preserved − shuffled, ratios of scatter shuffled / preserved.
    """

    runs: list[StudyRunOut]
    result: dict[str, Any]
