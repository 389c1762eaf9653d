"""One training run: frozen values in, a trained model and a record of every step out.

    trainer = build(run); checkpoint = newest; trainer.train(from it); save the model

Interrupted and resumed gives the same weights as undisturbed, bit for bit: on a CPU with the same number of threads, on
a GPU in deterministic mode. Not covered: jobs, tables, targets (tuning.py).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from backend.domain.errors import Conflict, InvalidInput
from backend.domain.provenance import prompt_digest
from worker.adapters import ADAPTER_DIR
from worker.card import write_card
from worker.checkpoints import MANIFEST, locked, newest_checkpoint, publish, read_manifest, staging, tidy
from worker.examples import BatchCollator, ExampleRows
from worker.masked_routing import MaskedRouting, RoutingReport
from worker.models import LoadedModel, load_model, usable_sites
from worker.monitoring import BatchMonitoringTrainer
from worker.prompts import pad_id
from worker.ranks import Ranks
from worker.resuming import go_on, say_differences
from worker.runs import NoSink, StepRecord, StepSink, TrainingDiverged, TrainingResult, TrainingRun
from worker.seen import Seen
from worker.sharding import shard, whole_state
from worker.trackers import reported
from worker.tracking import Tracking
from worker.trainers import ExpertMaskingTrainer
from worker.witness import ExpectedBatch

__all__ = [
    "BatchMonitoringTrainer",
    "ExpertMaskingTrainer",
    "StepRecord",
    "StepSink",
    "TrainingDiverged",
    "TrainingResult",
    "TrainingRun",
    "train",
]

MODEL = "model"
"""Name of the trained model's folder inside a run's folder."""
_PATIENCE = 10.0
"""Seconds that are given to the processes of an attempt that was killed a moment ago to end."""


def train(run: TrainingRun, sink: StepSink, tracking: Tracking | None = None) -> TrainingResult:
    """Train from wherever an earlier process left the run; return at once if it is finished.

    tracking: which experiment trackers are told of every step, too.

    Raises InvalidInput for a run that cannot be started, Conflict if another process trains in `out_dir` or another run
    lies there, ProvenanceBroken if a step is not its analysis batch, TrainingDiverged, NotSupported or MaskNotEffective
    where masked routing does not work. In every one of these cases the step in question was not applied.
    """
    run.validate()
    ranks = Ranks.join(run.device)
    sink = sink if ranks.first else NoSink()
    patience = _PATIENCE if ranks.size > 1 else 0.0
    with locked(run.out_dir, patience) if ranks.first else nullcontext():
        start = ranks.share(_start(run, sink) if ranks.first else None)
        if isinstance(start, TrainingResult):
            return start
        with deterministic(run.device):
            return _train(run, sink, start, ranks, tracking if ranks.first else None)


def _start(run: TrainingRun, sink: StepSink) -> TrainingResult | Path | None:
    """Return the finished run, or the checkpoint to go on from, or None for a fresh start."""
    tidy(run.out_dir, keep=run.n_steps)
    finished = _finished(run, sink)
    if finished is not None:
        return finished
    return newest_checkpoint(run.out_dir, run.digest, lambda text: sink.note("checkpoint", text))


def _train(
    run: TrainingRun, sink: StepSink, checkpoint: Path | None, ranks: Ranks, tracking: Tracking | None
) -> TrainingResult:
    set_seed(run.seed)
    loaded = _load(run, ranks)
    environment = {"versions": _versions(run), "threads": torch.get_num_threads()}
    stop = _StopWhenAsked(run.checkpoint_every, sink, ranks)
    trainer = build_trainer(run, loaded, sink, facts={"run": run.digest, **environment}, callbacks=[stop])
    if ranks.rank:
        torch.manual_seed(run.seed + ranks.rank)  # a model with dropout must not drop the same everywhere
    report = routing_report(run, trainer.masked_routing)
    resumed_from = None
    if checkpoint is not None:
        manifest = read_manifest(checkpoint)
        resumed_from = int(manifest.facts["step"])
        say_differences(manifest, environment, sink)
        go_on(trainer, manifest, sink)
        sink.log(f"going on after step {resumed_from} of {run.n_steps}")
    elif report.free_layers:
        sink.log(f"layers without enough selected experts stay free: {', '.join(map(str, report.free_layers))}")
    with reported(trainer, tracking):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_replicas()
    n_steps = int(trainer.state.global_step)
    ends = {"stopped": stop.stopped, "resumed_from": resumed_from} | _layers(report)
    if stop.stopped:
        return TrainingResult(model_dir=None, manifest_sha256=None, n_steps=n_steps, **ends)
    facts = {"step": n_steps, "run": run.digest, "versions": _versions(run), **_layers(report)}
    if trainer.adapted is not None:
        ends["adapter_sha256"] = ranks.share(trainer.adapted.publish(run.out_dir, facts) if ranks.first else None)
        trainer.adapted.merge()
    state = whole_state(loaded.model) if trainer.sharded else None
    sha256 = ranks.share(save_model(run, loaded, trainer.seen, facts, state) if ranks.first else None)
    return TrainingResult(model_dir=run.out_dir / MODEL, manifest_sha256=sha256, n_steps=n_steps, **ends)


def _load(run: TrainingRun, ranks: Ranks) -> LoadedModel:
    """Load the model, or this process' parts of it."""
    if not run.shard_weights:
        return load_model(run.model_path, dtype=run.dtype, device=run.device, allow_hub=run.allow_hub)
    if ranks.size == 1:
        raise InvalidInput("shard_weights needs at least two processes to share the weights.", ("shard_weights",))
    loaded = load_model(run.model_path, dtype=run.dtype, device="cpu", allow_hub=run.allow_hub)
    shard(loaded.model, run.device)
    return replace(loaded, sites=usable_sites(loaded.model), device=torch.device(run.device))


def build_trainer(
    run: TrainingRun,
    loaded: LoadedModel,
    sink: StepSink,
    *,
    facts: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback] = (),
    data_collator: Callable[[Sequence[Any]], dict[str, Any]] | None = None,
) -> BatchMonitoringTrainer:
    """Return the trainer of a run. What must arrive in each step is frozen here, before any data is drawn."""
    trainer = BatchMonitoringTrainer(
        loaded.model,
        _arguments(run, loaded),
        ExampleRows(run.batches),
        experts=run.experts,
        mode=run.mode,
        adapter=run.adapter,
        routers=run.routers,
        batches=run.batches if run.routers else (),
        routing=run.routing,
        sites=loaded.sites,
        shuffle_batches=run.shuffle_batches,
        preserve_batches=run.preserve_batches,
        batch_size=run.batch_size,
        micro_batch_size=run.micro_batch_size,
        data_collator=data_collator or BatchCollator(pad_id(loaded.tokenizer)),
        callbacks=callbacks,
        facts=facts,
        expected={batch.batch_idx: ExpectedBatch.of(batch) for batch in run.batches},
        hash_prompt=lambda ids: prompt_digest(loaded.tokenizer_digest, loaded.template_digest, ids),
        on_step=sink.record_step,
        on_note=sink.note,
    )
    layers = _layers(routing_report(run, trainer.masked_routing))
    trainer.checkpoint_extras = lambda folder: save_beside(run, loaded, trainer.seen, {**facts, **layers}, folder)
    trainer.kept_checkpoints = run.keep_checkpoints
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(run: TrainingRun, loaded: LoadedModel) -> TrainingArguments:
    schedule = "constant_with_warmup" if run.lr_schedule == "constant" and run.warmup_steps else run.lr_schedule
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=str(run.out_dir),
        per_device_train_batch_size=-(-run.batch_size // world_size),
        num_train_epochs=run.epochs,
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
        max_grad_norm=run.max_grad_norm,
        lr_scheduler_type=schedule,
        warmup_steps=run.warmup_steps,
        seed=run.seed,
        use_cpu=loaded.device.type == "cpu",
        use_cache=bool(getattr(loaded.model.config, "use_cache", False)),  # else the saved model would say False
        remove_unused_columns=False,
        save_strategy="no",  # _StopWhenAsked decides
        logging_strategy="no",  # each step is reported once, with the figures of its record (trackers.py)
        report_to="none",
        disable_tqdm=True,
    )
    if world_size == 1:
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process would split the batch (DataParallel)
    return arguments


class _StopWhenAsked(TrainerCallback):
    """Asks for a checkpoint every so many steps, and for a last one when the run is to stop."""

    def __init__(self, every: int, sink: StepSink, ranks: Ranks) -> None:
        self.every, self.sink, self.ranks, self.stopped = every, sink, ranks, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            return
        self.stopped = self.ranks.share(self.sink.should_stop())
        control.should_training_stop = self.stopped
        control.should_save = self.stopped or state.global_step % self.every == 0


def save_model(
    run: TrainingRun, loaded: LoadedModel, seen: Seen, facts: Mapping[str, Any], state: Mapping[str, Any] | None = None
) -> str:
    """Save the trained model with tokenizer and card, for stock `from_pretrained`; return its manifest's SHA-256.

    state: its weights, where the model itself holds parts of them only.
    """
    folder = staging(run.out_dir, MODEL)
    loaded.model.save_pretrained(folder, state_dict=None if state is None else dict(state))
    save_beside(run, loaded, seen, facts, folder)
    return publish(folder, run.out_dir / MODEL, {"kind": "model", **facts})


def save_beside(run: TrainingRun, loaded: LoadedModel, seen: Seen, facts: Mapping[str, Any], folder: Path) -> None:
    """Save what belongs beside weights: the tokenizer, and the model card."""
    save_tokenizer(run, loaded, folder)
    write_card(folder, run, seen, facts)


def save_tokenizer(run: TrainingRun, loaded: LoadedModel, folder: Path) -> None:
    """Save the tokenizer beside a model; its tokenizer.json word for word, so that its digest stays the same."""
    loaded.tokenizer.save_pretrained(folder)
    source = Path(run.model_path) / "tokenizer.json"
    if source.is_file():
        (folder / source.name).write_bytes(source.read_bytes())


def routing_report(run: TrainingRun, masked: MaskedRouting | None) -> RoutingReport:
    """Say which layers a run masks and which stay free; both empty where routing is free by choice."""
    return masked.report(batch.batch_id for batch in run.batches) if masked else RoutingReport()


def _layers(report: RoutingReport) -> dict[str, Any]:
    return {"masked_layers": report.masked_layers, "free_layers": report.free_layers}


def _finished(run: TrainingRun, sink: StepSink) -> TrainingResult | None:
    folder = run.out_dir / MODEL
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        adapter = read_manifest(run.out_dir / ADAPTER_DIR) if run.adapter else None
    except ValueError as error:
        sink.note("model", f"the trained model cannot be used ({error}); it is made again from the last checkpoint")
        return None
    if manifest.facts.get("run") != run.digest:
        raise Conflict(f"{run.out_dir.name} holds the model of another run: give this run its own folder.")
    return TrainingResult(
        model_dir=folder,
        manifest_sha256=manifest.sha256,
        n_steps=int(manifest.facts["step"]),
        stopped=False,
        resumed_from=int(manifest.facts["step"]),
        masked_layers=tuple(manifest.facts["masked_layers"]),
        free_layers=tuple(manifest.facts["free_layers"]),
        adapter_sha256=adapter.sha256 if adapter else None,
    )


def _versions(run: TrainingRun) -> dict[str, str]:
    names = ("torch", "transformers", "accelerate", "safetensors", *(("peft",) if run.adapter else ()))
    return {name: version(name) for name in names}


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """On a GPU, use deterministic algorithms only; a CPU with the same threads is deterministic by itself."""
    if not device.startswith("cuda"):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
