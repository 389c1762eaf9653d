"""Going on from a checkpoint: what must be as it was, and what may differ if the run's record says so."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from backend.domain.errors import Conflict
from worker.checkpoints import Manifest
from worker.monitoring import BatchMonitoringTrainer
from worker.runs import StepSink
from worker.seen import Seen


def go_on(trainer: BatchMonitoringTrainer, checkpoint: Manifest, sink: StepSink) -> None:
    """Set a trainer up to go on from a checkpoint. Raises Conflict where another number of processes would not do.

    With the same number, the micro-batch is the one that fitted into memory; with another one, the shares are others.
    """
    step, before = checkpoint.facts["step"], checkpoint.facts.get("world_size", 1)
    if "seen" in checkpoint.facts:
        trainer.seen = Seen.read(checkpoint.facts["seen"])
    now = trainer.ranks.size
    if now == before:
        if "micro_batch" in checkpoint.facts:
            trainer.micro.restore(checkpoint.facts["micro_batch"])
        return
    assert trainer.model is not None
    if trainer.sharded:
        raise Conflict(
            f"The checkpoint after step {step} holds parts for {before} process(es), and {now} are to go on. "
            f"Resume it with n_processes {before}, or start a new training."
        )
    by_chance = draws_at_random(trainer.model)
    if by_chance:
        raise Conflict(
            f"The checkpoint after step {step} was written by {before} process(es), and {now} are to go on: this model "
            f"draws random numbers while it trains ({by_chance}), and their state belongs to each process. "
            f"Resume it with n_processes {before}, or start a new training."
        )
    sink.note(
        "processes",
        f"up to step {step} this run was trained by {before} process(es), from then on by {now}: the same batches, but "
        "sums are taken in another order, so the weights may differ from an undisturbed run's in their last bits",
    )


def draws_at_random(model: torch.nn.Module) -> str | None:
    """Return the name of a part of the model that drops at random while it trains, None if there is none."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            drops = "drop" in key or (key == "p" and isinstance(module, _DropoutNd))
            if drops and isinstance(value, float) and value > 0:
                return f"{name}.{key} = {value}"
    return None


def say_differences(manifest: Manifest, environment: Mapping[str, Any], sink: StepSink) -> None:
    """Note what changed around a run since its checkpoint was written."""
    changed = [name for name, value in environment.items() if manifest.facts.get(name) != value]
    if changed:
        step = manifest.facts["step"]
        what = " and ".join(changed)
        sink.note("environment", f"{what} changed after step {step}: the result may differ in its last bits")
