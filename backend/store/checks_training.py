"""The links of a training but for its expert set: targets -> steps -> epochs -> weights."""

import hashlib
import json
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.canonical import canonical_json, sha256_hex
from backend.domain.provenance import target_digest
from backend.domain.step_order import batch_order
from backend.domain.turns import Turn, turn_of
from backend.store import plans
from backend.store import tables as t
from backend.store.checks import Broken, same, samples_by_batch


def _examples(session: Session, training_id: str) -> list[t.TrainingExample]:
    return list(
        session.scalars(
            select(t.TrainingExample)
            .where(t.TrainingExample.training_id == training_id)
            .order_by(t.TrainingExample.batch_idx, t.TrainingExample.in_batch_idx)
        )
    )


def frozen_digest(examples: list[t.TrainingExample]) -> str:
    """Return the target digest of stored examples (in order of batch and place)."""
    return target_digest([(e.batch_idx, e.in_batch_idx, e.row_id, e.answer_ids) for e in examples])


def check_targets(session: Session, training: t.Training) -> Iterator[None]:
    """Each target belongs to an analysed sample with the same prompt; all of them give the frozen digest."""
    examples = _examples(session, training.id)
    samples = samples_by_batch(session, training.analysis_id)
    for example in examples:
        where = f"batch {example.batch_idx}, sample {example.in_batch_idx}"
        of_batch = samples.get(example.batch_idx, [])
        if example.in_batch_idx >= len(of_batch):
            raise Broken(where, "an analysed sample", "none")
        sample = of_batch[example.in_batch_idx]
        same(where, (sample.row_id, sample.prompt_digest), (example.row_id, example.prompt_digest))
        yield
    if training.target_digest is not None:
        same("all targets", training.target_digest, frozen_digest(examples))
        yield


def _steps(session: Session, training: t.Training) -> list[t.TrainingStep]:
    return list(
        session.scalars(
            select(t.TrainingStep).where(t.TrainingStep.training_id == training.id).order_by(t.TrainingStep.step)
        )
    )


def check_steps(session: Session, training: t.Training, analysis: t.Analysis) -> Iterator[None]:
    """Each step saw the batch that its seed put there: same samples, labels and prompts, verified inside it."""
    planned = {b.batch_idx: b for b in plans.read(session, analysis.id).batches}
    samples = samples_by_batch(session, analysis.id)
    known = {(s.batch_idx, s.in_batch_idx): (s.row_id, s.label, s.prompt_digest) for b in samples.values() for s in b}
    steps = _steps(session, training)
    if steps and not planned:
        raise Broken("the plan", "batches", "none")
    same("step numbers", list(range(1, len(steps) + 1)), [s.step for s in steps])
    for step, due in zip(steps, _schedule(training, planned), strict=False):
        where = f"step {step.step}"
        seen = [(s["batch_idx"], s["in_batch_idx"]) for s in step.samples]
        for place, sample in zip(seen, step.samples, strict=True):
            found = (sample["row_id"], sample["label"], sample["prompt_digest"])
            same(f"{where}, batch {place[0]}, sample {place[1]}", known.get(place), found)
        kept = bool(training.params.get("preserve_batches", True))
        same(f"{where}, whether it is a batch", kept, step.batch_idx is not None)
        if step.batch_idx is not None:
            same(f"{where}, epoch and batch by the seed", due, (step.epoch, step.batch_idx))
            plan = planned[step.batch_idx]
            same(where, plan.batch_id, step.batch_id)
            same(f"{where}, samples", [(plan.batch_idx, s.in_batch_idx) for s in plan.samples], seen)
            same(f"{where}, verified during the forward call", True, step.verified)
        same(f"{where}, what it taught", _turn(training, step.step, len(planned)), step.kind)
        yield
    if training.status == "succeeded":
        same("number of steps", training.total, len(steps))


def _schedule(training: t.Training, planned: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield epoch and batch_idx of every step, as the order of (seed, epoch) puts them: for ever, if there are any."""
    seed, shuffle = training.params["seed"], training.params["shuffle_batches"]
    for epoch in count():
        for batch_idx in batch_order(planned, seed, epoch, shuffle):
            yield epoch, batch_idx


def _turn(training: t.Training, step: int, per_epoch: int) -> str:
    return str(turn_of(step, per_epoch) if training.params.get("routers") else Turn.EXPERTS)


def check_epochs(session: Session, training: t.Training, analysis: t.Analysis) -> Iterator[None]:
    """Each finished epoch visited every sample of the plan exactly once."""
    everything = sorted(
        (b.batch_idx, s.in_batch_idx) for b in plans.read(session, analysis.id).batches for s in b.samples
    )
    epochs: dict[int, list[tuple[int, int]]] = {}
    for step in _steps(session, training):
        epochs.setdefault(step.epoch, []).extend((s["batch_idx"], s["in_batch_idx"]) for s in step.samples)
    last = max(epochs, default=-1)
    for epoch, seen in sorted(epochs.items()):
        if epoch == last and training.status != "succeeded":
            continue
        same(f"epoch {epoch}", canonical_json(everything), canonical_json(sorted(seen)))
        yield


def check_weights(training: t.Training) -> Iterator[None]:
    """Every file of the trained model, and of its adapter, has the SHA-256 that the manifest there names."""
    if training.status != "succeeded":
        return
    if "model_path" not in training.result:
        raise Broken("the trained model", "its folder and manifest", "nothing: the run stored no model")
    yield from _check_folder("", Path(training.result["model_path"]), training.result["manifest_sha256"])
    if "adapter_path" in training.result:
        adapter = training.result["adapter_path"], training.result["adapter_manifest_sha256"]
        yield from _check_folder("adapter/", Path(adapter[0]), adapter[1])


def _check_folder(name: str, folder: Path, sha256: str) -> Iterator[None]:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise Broken(f"the trained {'adapter' if name else 'model'}", "manifest.json", "missing on this machine")
    content = manifest.read_bytes()
    same(f"{name}manifest.json", sha256, sha256_hex(content))
    yield
    yield from _check_files(name, folder, content)


def _check_files(prefix: str, folder: Path, manifest: bytes) -> Iterator[None]:
    for name, entry in sorted(json.loads(manifest)["files"].items()):
        expected = entry["sha256"]
        path = folder / name
        if not path.is_file():
            raise Broken(prefix + name, expected, "missing")
        with path.open("rb") as file:
            same(prefix + name, expected, hashlib.file_digest(file, "sha256").hexdigest())
        yield
