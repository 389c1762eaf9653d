"""Trainings over REST."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from backend.api.schemas.common import Answer, Clean, Flag, Id, LabelWord, Name, Priority, Request, RunnableOut
from backend.api.schemas.estimates import EstimateOut
from backend.domain.jobs import PRIORITY

TargetWord = Literal["given", "model", "refusal", "default"]
NonNegative = Annotated[float, Field(strict=True, ge=0, le=1e6)]


class TargetsIn(Request):
    """What each label is trained to answer. default: safe -> given, else model; unsafe -> given, else refusal."""

    safe: TargetWord = "default"
    unsafe: TargetWord = "default"


class AdapterIn(Request):
    """Low-rank factors of the chosen experts' matrices. Their product times alpha / rank is added to each matrix."""

    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(strict=True, gt=0, le=1e6)] = 16.0


class RoutersIn(Request):
    """Routers learn in turn with the experts: every second step brings the routing of unsafe prompts closer to that of
    their safe counterparts.
    """

    term: Literal["consistency"] = "consistency"
    learning_rate: Annotated[
        float | None,
        Field(strict=True, gt=0, le=10, description="Theirs, without weight decay; null: the training's."),
    ] = None


class TrainingParams(Request):
    """How a training learns: everything but on what, in which batches and with which seed."""

    mode: Literal["selected", "all_but_selected", "full"] = "selected"
    adapter: Annotated[
        AdapterIn | None,
        Field(
            description="Train low-rank adapters (LoRA, through peft) of the chosen experts instead of their whole "
            "rows: far less optimizer state. Needs mode `selected`, and no shard_weights. The trained model has them "
            "merged in; the adapter is kept beside it in peft's format (result.adapter_path). Biases of experts stay."
        ),
    ] = None
    routers: Annotated[
        RoutersIn | None,
        Field(
            description="Train the routers too, every second step, on KL(routing of the safe prompt || routing of its "
            "unsafe counterpart), docs/concepts.md. Needs mode `selected` and pairs in every batch (an analysis with "
            "strategy `paired`); not with adapter, shard_weights or preserve_batches false. null: routers stay "
            "bit-identical."
        ),
    ] = None
    routing: Literal["free", "masked"] = "free"
    targets: TargetsIn = TargetsIn()
    refusal_text: Annotated[str, Field(min_length=1, max_length=5000), Clean] = "I can't help with that request."
    epochs: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    learning_rate: Annotated[float, Field(strict=True, gt=0, le=10)] = 1e-4
    weight_decay: NonNegative = 0.0
    max_grad_norm: Annotated[float, Field(strict=True, gt=0, le=1e6)] = 1.0
    lr_schedule: Literal["constant", "linear"] = "constant"
    warmup_steps: Annotated[int, Field(strict=True, ge=0, le=10**9)] = 0
    shuffle_batches: Flag = True
    max_answer_length: Annotated[int, Field(strict=True, ge=1, le=131_072)] = 128
    checkpoint_every: Annotated[int, Field(strict=True, ge=1, le=10**9)] = 20
    keep_checkpoints: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            le=1000,
            description="Newest checkpoints that stay beside the trained model once it is there; 0: none. While the "
            "training goes on, at least two are kept.",
        ),
    ] = 1
    n_processes: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1,
            le=64,
            description="Processes that share each batch, one per GPU; null: as many as the worker has GPUs, one on a "
            "CPU. The batches and their order are the same for every number; weights agree only to rounding.",
        ),
    ] = None
    micro_batch_size: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1,
            le=100_000,
            description="Samples that a process puts into one forward, to save memory; null: its whole share of the "
            "batch. It stays one step per batch. Halved at most three times where memory runs out: see result.notes.",
        ),
    ] = None
    shard_weights: Annotated[
        Flag,
        Field(
            description="Each process keeps a part of every weight (FSDP2), for models larger than one GPU. Needs at "
            "least two processes; the worker's main memory must hold the model. Never seen on a GPU so far."
        ),
    ] = False


class TrainingCreate(TrainingParams):
    """Train on exactly the batches that an analysis measured: one optimizer step is one analysis batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"analysis_id": "an_1f0c9a2b7d3e", "expert_set_id": "es_1f0c9a2b7d3e"},
                {
                    "analysis_id": "an_1f0c9a2b7d3e",
                    "expert_set_id": "es_1f0c9a2b7d3e",
                    "adapter": {"rank": 8, "alpha": 16},
                },
                {"analysis_id": "an_1f0c9a2b7d3e", "mode": "full", "epochs": 2, "learning_rate": 0.00005},
            ]
        }
    )

    analysis_id: Id
    expert_set_id: Id | None = None
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    preserve_batches: Flag = True
    report_to: Annotated[
        list[Literal["tensorboard", "mlflow", "wandb"]],
        Field(
            default_factory=list,
            max_length=3,
            description="Experiment trackers that are told every step, where the worker has them. They write below its "
            "data folder; nothing leaves the machine unless its owner set that up. `result.tracking` says where.",
        ),
    ]
    priority: Priority = PRIORITY
    name: Name | None = None


class TrainingOut(RunnableOut):
    """One training run. `n_verified` counts the steps whose batch was proven to be the analysis' batch.

    `result.notes` says what makes a run other than an undisturbed one: a broken checkpoint, another number of processes
    after a resume, a micro-batch that was halved. `environment.n_processes` is how many trained it last.
    """

    analysis_id: str
    analysis_name: str
    model: str
    expert_set_id: str | None
    expert_set_name: str | None
    mode: str
    routing: str
    params: dict[str, Any]
    target_digest: str | None
    n_steps: int
    n_recorded: int
    n_verified: int
    final_loss: float | None
    result: dict[str, Any]


class TrainingDryRunOut(Answer):
    """What POST /trainings would do, and what that takes. Nothing was stored."""

    n_steps: int
    estimate: EstimateOut


class StepOut(Answer):
    """One optimizer step. Without preserved batches, batch_idx, batch_id and verified are null.

    kind: what it taught, `experts` or `routers`. A router step measures its losses and learns from `consistency_loss`
    alone, which is null in runs whose routers do not learn.
    """

    step: int
    epoch: int
    batch_idx: int | None
    batch_id: str | None
    verified: bool | None
    loss: float | None
    loss_safe: float | None
    loss_unsafe: float | None
    grad_norm: float | None
    learning_rate: float
    seconds: float
    n_answer_tokens: int
    kind: Literal["experts", "routers"]
    consistency_loss: float | None


class StepSampleOut(Answer):
    """One sample of a step with its own loss, its text and what it was trained to answer."""

    batch_idx: int | None
    in_batch_idx: int | None
    row_id: str
    label: LabelWord
    text: str | None
    prompt_digest: str | None
    loss: float | None
    answer: str | None
    target: str | None


class StepBatchOut(Answer):
    """The risk summary of the analysis batch behind a step."""

    max_abs_risk_diff: float | None
    noise_floor: float | None
    n_safe: int
    n_unsafe: int


class StepDetailOut(StepOut):
    """One step with its samples and its analysis batch."""

    analysis_id: str
    samples: list[StepSampleOut]
    batch: StepBatchOut | None
    previous_step: int | None
    next_step: int | None
