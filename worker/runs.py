"""What a training run is given and what it gives back, as frozen values. Knows nothing of jobs, tables or queues."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backend.domain.canonical import digest
from backend.domain.errors import InvalidInput, RouteprintError
from backend.domain.vocabulary import Expert
from worker.adapters import Adapter, check_adapter
from worker.examples import TrainBatch
from worker.masking import ExpertChoice, Learn
from worker.origin import Origin
from worker.turns import Routers, check_routers

ROUTINGS = ("free", "masked")
SCHEDULES = ("constant", "linear")


DECIDING = (
    "mode",
    "routing",
    "epochs",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "lr_schedule",
    "warmup_steps",
    "seed",
    "shuffle_batches",
    "preserve_batches",
    "micro_batch_size",
    "dtype",
)
"""The settings that decide a run's weights."""


class TrainingDiverged(RouteprintError):
    """A loss or a gradient is not a number any more. The step was not applied."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """Everything that decides a run's result, and where it goes.

    model_path: folder of the model to start from (or `hub:<org>/<name>` with allow_hub). batches: the analysis
    batches, in the plan's order. experts: pairs (layer, expert); or {batch_id: pairs}; or None. mode: selected,
    all_but_selected, full. routing: free or masked. lr_schedule: constant or linear (to zero at the last step), after
    `warmup_steps`. max_grad_norm: 0 for no clipping. checkpoint_every: steps. keep_checkpoints: how many
    stay. micro_batch_size: samples that a process puts into one forward; None: its whole share of the batch.
    shard_weights: each process keeps a part of every weight, for models larger than one GPU. adapter: train
    low-rank adapters of the chosen experts instead of their rows. routers: teach the routers too, every
    second step (router_steps.py); every batch needs pairs.
    out_dir: the run's own folder; one run at a time.
    """

    model_path: str
    batches: tuple[TrainBatch, ...]
    out_dir: Path
    experts: Sequence[Expert] | Mapping[str, Sequence[Expert]] | None = None
    mode: str = "selected"
    routing: str = "free"
    epochs: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    seed: int = 0
    shuffle_batches: bool = True
    preserve_batches: bool = True
    checkpoint_every: int = 20
    keep_checkpoints: int = 2
    micro_batch_size: int | None = None
    shard_weights: bool = False
    adapter: Adapter | None = None
    routers: Routers | None = None
    dtype: str = "auto"
    device: str = "cpu"
    allow_hub: bool = False
    origin: Origin | None = None

    @property
    def choice(self) -> ExpertChoice:
        """The expert set as training uses it."""
        return ExpertChoice.of(self.experts)

    @property
    def batch_size(self) -> int:
        """The analysis' batch size: that of the largest batch (the last one may be short)."""
        return max(len(batch.examples) for batch in self.batches)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        n_samples = sum(len(batch.examples) for batch in self.batches)
        per_epoch = len(self.batches) if self.preserve_batches else -(-n_samples // self.batch_size)
        return per_epoch * self.epochs

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the weights, but not of where they go or how often they are saved.

        A checkpoint of one run is never continued by another.
        """
        choice = self.choice
        per_batch = {key: sorted(pairs) for key, pairs in (choice.per_batch or {}).items()}
        return digest(
            {name: getattr(self, name) for name in DECIDING}
            | {"experts": sorted(choice.everywhere), "per_batch": per_batch}
            | {"batches": [_batch_key(batch) for batch in self.batches]}
            | ({"adapter": self.adapter.to_dict()} if self.adapter else {})
            | (
                {"routers": self.routers.to_dict(), "pairs": list(map(_pairs_key, self.batches))}
                if self.routers
                else {}
            )
        )

    def validate(self) -> None:
        """Raise InvalidInput, naming the field, for a run that could not start or would not do what it says."""
        for name, value, allowed in (
            ("mode", self.mode, tuple(Learn)),
            ("routing", self.routing, ROUTINGS),
            ("lr_schedule", self.lr_schedule, SCHEDULES),
        ):
            if value not in allowed:
                raise InvalidInput(f"{name} is {value!r}; use {', '.join(map(str, allowed))}.", (name,))
        for name, least in (("epochs", 1), ("checkpoint_every", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {least}.", (name,))
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be a number of at least 0.", (name,))
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InvalidInput("micro_batch_size must be at least 1, or null.", ("micro_batch_size",))
        if self.adapter is not None:
            check_adapter(self.adapter, self.mode, sharded=self.shard_weights)
        self._validate_batches()
        self._validate_choice()
        if self.routers is not None:
            check_routers(
                self.routers,
                self.mode,
                adapter=self.adapter is not None,
                sharded=self.shard_weights,
                preserve_batches=self.preserve_batches,
                batches=self.batches,
            )

    def _validate_batches(self) -> None:
        if not self.batches:
            raise InvalidInput("there is no batch to train on.", ("batches",))
        for batch in self.batches:
            for e in batch.examples:
                if not len(e.prompt_ids) or not len(e.answer_ids):
                    what = "answer" if len(e.prompt_ids) else "prompt"
                    raise InvalidInput(
                        f"sample {e.in_batch_idx} of batch {batch.batch_idx} has an empty {what}: nothing to learn.",
                        ("batches", batch.batch_idx, e.in_batch_idx),
                    )

    def _validate_choice(self) -> None:
        choice = self.choice
        if choice.per_batch is not None:
            if not self.preserve_batches:
                raise InvalidInput(
                    "a per_batch expert set needs preserve_batches: a reshuffled step belongs to no batch.",
                    ("preserve_batches",),
                )
            for batch in self.batches:
                choice.at(batch.batch_id)
        if self.routing == "masked" and not choice.union:
            raise InvalidInput("masked routing needs an expert set to send the tokens to.", ("expert_set_id",))


def _pairs_key(batch: TrainBatch) -> list[Any]:
    return [batch.pairs, [None if e.own is None else np.asarray(e.own).astype(int).tolist() for e in batch.examples]]


def _batch_key(batch: TrainBatch) -> list[Any]:
    return [
        batch.batch_idx,
        batch.batch_id,
        [
            (
                e.in_batch_idx,
                e.label,
                e.row_id,
                e.prompt_digest,
                np.asarray(e.prompt_ids).tolist(),
                np.asarray(e.answer_ids).tolist(),
            )
            for e in batch.examples
        ],
    ]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step. Taken again after a resume it is the same but for `seconds`.

    step: from 1; epoch: from 0. batch_idx, batch_id, verified: None for a reshuffled step (preserve_batches=False).
    loss: mean over the step's answer tokens; loss_safe, loss_unsafe: mean of the samples' losses of a label, None
    without samples of it. grad_norm: of the weights that learn, before clipping. seconds: wall time. samples: in order,
    {batch_idx, in_batch_idx, row_id, label, prompt_digest (of what the forward got), loss (mean over its answer)}.
    kind: what the step taught, experts or routers; a router step measures its losses and learns from consistency_loss,
    which is None in runs whose routers do not learn.
    """

    step: int
    epoch: int
    batch_idx: int | None
    batch_id: str | None
    verified: bool | None
    loss: float
    loss_safe: float | None
    loss_unsafe: float | None
    grad_norm: float
    learning_rate: float
    n_answer_tokens: int
    seconds: float
    samples: tuple[dict[str, Any], ...]
    kind: str = "experts"
    consistency_loss: float | None = None


class StepSink(Protocol):
    """Where a run reports to. `record_step` may be called again for a step that was recorded before a crash."""

    def record_step(self, record: StepRecord) -> None:
        """Store a step; called after it was applied and before the checkpoint that holds it."""

    def should_stop(self) -> bool:
        """Return True to save a checkpoint and stop after the present step."""

    def log(self, message: str) -> None:
        """Tell something a person who follows the run should know."""

    def note(self, kind: str, message: str) -> None:
        """Keep, with the run's record, what makes this run other than an undisturbed one; tell it as `log` does."""


class NoSink:
    """Where the processes beside the first one report to: what they know, the first one knows too."""

    def record_step(self, record: StepRecord) -> None:
        """Do nothing: the first process records the step of all."""

    def should_stop(self) -> bool:
        """Return False: the first process decides."""
        return False

    def log(self, message: str) -> None:
        """Do nothing."""

    def note(self, kind: str, message: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended. model_dir: the trained model, None if it was stopped. n_steps: steps taken in all.

    manifest_sha256: of the model's manifest.json, which names every file's SHA-256. masked_layers, free_layers: layers
    masked in every step, and layers that stayed free in at least one, with routing `masked`. resumed_from: the step
    this process went on from, None for a fresh start. adapter_sha256: of the adapter's manifest, if one was trained.
    """

    model_dir: Path | None
    manifest_sha256: str | None
    n_steps: int
    stopped: bool
    resumed_from: int | None
    masked_layers: tuple[int, ...]
    free_layers: tuple[int, ...]
    adapter_sha256: str | None = None

    def write(self) -> dict[str, Any]:
        """Return it as JSON: processes that train together hand it on in this form."""
        return asdict(self) | {"model_dir": None if self.model_dir is None else str(self.model_dir)}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "TrainingResult":
        """Read what `write` returned."""
        layers = {name: tuple(value[name]) for name in ("masked_layers", "free_layers")}
        return cls(**{**value, **layers, "model_dir": value["model_dir"] and Path(value["model_dir"])})
