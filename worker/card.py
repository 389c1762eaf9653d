"""The model card (README.md) of a checkpoint and of a trained model: what it is, where it comes from, how to check it.

Names that users typed stand in it as text, whatever they hold: every character that Markdown reads as markup is
escaped, and none of them enters the metadata, which huggingface_hub writes. It names no path and no time, so that an
interrupted run and an undisturbed one give the same card. Not covered: manifest.json, which holds the card's SHA-256.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from backend.domain.report.as_markdown import as_markdown
from backend.domain.report.document import Bullets, Code, Column, Document, Listing, Paragraph, Run, Section, Table
from worker.folders import is_hub_name
from worker.masking import Learn
from worker.origin import Origin
from worker.runs import DECIDING, TrainingRun
from worker.seen import Seen

CARD = "README.md"
_SETTINGS = (*DECIDING, "batch_size", "shard_weights")
_TYPED = "(name given by a user)"


def write_card(folder: Path, run: TrainingRun, seen: Seen, facts: Mapping[str, Any]) -> None:
    """Write the card into a folder. facts: `versions`, and `masked_layers`, `free_layers` where they are known."""
    card = ModelCard(f"---\n{_data(run).to_yaml()}\n---\n\n{as_markdown(_document(run, seen, facts))}")
    card.save(folder / CARD)


def _data(run: TrainingRun) -> ModelCardData:
    """Return the metadata: ids and digests only, nothing that a user typed but the model's own id where it is one."""
    base = run.origin.base_model.removeprefix("hub:") if run.origin else None
    own = {"run_sha256": run.digest} | (run.origin.ids() if run.origin else {})
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base if base and is_hub_name(base) else None,
        tags=["routeprint", "mixture-of-experts"],
        routeprint=own,
    )


def _document(run: TrainingRun, seen: Seen, facts: Mapping[str, Any]) -> Document:
    whole = seen.n_steps >= run.n_steps
    what = "A trained model" if whole else f"A checkpoint after step {seen.n_steps} of {run.n_steps}"
    step = "is one analysis batch" if run.preserve_batches else "mixes samples of several analysis batches"
    origin = run.origin
    return Document(
        title=_flat(origin.training_name) if origin else "A model trained with Routeprint",
        subtitle=f"{what}. One optimizer step {step}.",
        facts=(("training", Code(origin.training_id)),) if origin else (),
        abstract=(_verified(run, seen),),
        sections=(
            Section("origin", "Where it comes from", _origin(origin)),
            Section("learned", "What learned", _learned(run, facts)),
            Section("settings", "Settings", (_table("settings", "Of the run", _settings(run, facts)),)),
            Section("steps", "What the steps showed", (_table("steps", "So far", _steps(run, seen)),)),
            Section("check", "How to check it", _check(origin)),
            Section("limits", "What it does not show", (Bullets(tuple((one,) for one in _limits(run))),)),
        ),
        footer=(f"Written by Routeprint {version('routeprint')}.",),
        made_with="Routeprint",
    )


def _flat(text: str) -> str:
    """Return text on one line, without control characters and those that turn the direction of writing."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(no name)"


def _table(key: str, caption: str, rows: list[tuple[Run, ...]], heads: tuple[str, str] = ("what", "value")) -> Table:
    return Table(key, caption, tuple(map(Column, heads)), tuple(rows))


def _verified(run: TrainingRun, seen: Seen) -> str:
    if not run.preserve_batches:
        return (
            f"{seen.n_steps} steps on the same samples, flattened and reshuffled: the baseline. No step is an analysis "
            "batch, so none was verified."
        )
    return (
        f"{seen.n_verified} of {seen.n_steps} steps were verified inside the forward call: exactly the samples of "
        "their analysis batch, in order, with the prompts that were measured and the answers that were frozen."
    )


def _origin(origin: Origin | None) -> tuple[Paragraph | Table, ...]:
    if origin is None:
        return (Paragraph(("Not recorded: this run was started from Python, without the services.",)),)
    rows: list[tuple[Run, ...]] = [
        (f"prompt set {_TYPED}", _flat(origin.dataset_name)),
        ("prompt set, SHA-256", Code(origin.dataset_sha256)),
        ("“safe” means", _flat(origin.label_meaning[0])),
        ("“unsafe” means", _flat(origin.label_meaning[1])),
        ("analysis", Code(origin.analysis_id)),
        ("batch plan, SHA-256", Code(origin.plan_digest)),
        ("base model", Code(_flat(origin.base_model))),
        *((f"base model's {name}, SHA-256", Code(found) if found else "none") for name, found in origin.base_digests),
        ("safe prompts learn", _target(origin.targets[0], "the base model's own answer")),
        ("unsafe prompts learn", _target(origin.targets[1], "the refusal text")),
        ("frozen targets, SHA-256", Code(origin.target_digest) if origin.target_digest else "none"),
    ]
    if origin.expert_set is not None:
        id_, name, sha256, method = origin.expert_set
        rows += [
            (f"expert set {_TYPED}", _flat(name)),
            ("expert set", Code(id_)),
            ("expert set, SHA-256", Code(sha256)),
            ("expert set, chosen by", _flat(method)),
        ]
    return (_table("origin", "The chain", rows),)


def _target(wanted: str, else_: str) -> str:
    """Say what a label's prompts learn. wanted: as requested; else_: what default means without a given response."""
    meant = {"given": "the given response", "model": "the base model's own answer", "refusal": "the refusal text"}
    return f"the given response where there is one, else {else_}" if wanted == "default" else meant[wanted]


def _learned(run: TrainingRun, facts: Mapping[str, Any]) -> tuple[Paragraph | Table, ...]:
    choice, blocks = run.choice, []
    words = {
        Learn.SELECTED: _selected(run),
        Learn.ALL_BUT_SELECTED: "Everything but the weights of these experts, which are those of the base model.",
        Learn.FULL: "All weights.",
    }
    blocks.append(Paragraph((words[Learn(run.mode)],)))
    if choice.per_batch is not None:
        blocks.append(Paragraph(("The set differs from batch to batch; the table is the union of all batches.",)))
    layers: dict[int, list[int]] = {}
    for layer, expert in sorted(choice.union):
        layers.setdefault(layer, []).append(expert)
    rows: list[tuple[Run, ...]] = [(str(layer), ", ".join(map(str, own))) for layer, own in layers.items()]
    tables = [_table("experts", "The expert set", rows, ("layer", "experts"))] if rows else []
    masked = [
        Paragraph((f"{name} while training: layers {', '.join(map(str, facts[key]))}.",))
        for key, name in (("masked_layers", "Masked"), ("free_layers", "Left free in at least one step"))
        if facts.get(key)
    ]
    return (*blocks, *tables, *masked)


def _selected(run: TrainingRun) -> str:
    if run.routers is not None:
        return (
            "The weights of these experts and, every second step, those of the routers (routing consistency of unsafe "
            "prompts with their safe counterparts); everything else is bit-identical to the base model."
        )
    if run.adapter is not None:
        return (
            f"Low-rank adapters of these experts (rank {run.adapter.rank}, alpha {run.adapter.alpha:g}), which a "
            "finished model has merged in; everything else is bit-identical to the base model."
        )
    return "Only the weights of these experts; everything else is bit-identical to the base model."


def _settings(run: TrainingRun, facts: Mapping[str, Any]) -> list[tuple[Run, ...]]:
    versions = {"routeprint": version("routeprint"), **facts.get("versions", {})}
    own: list[tuple[Run, ...]] = [(name.replace("_", " "), _value(getattr(run, name))) for name in _SETTINGS]
    if run.routers is not None:
        own.append(("learning rate of the routers", _value(run.routers.learning_rate or run.learning_rate)))
    own += [(f"adapter {name}", str(value)) for name, value in (run.adapter.to_dict() if run.adapter else {}).items()]
    return [*own, *((f"{name} version", Code(str(found))) for name, found in sorted(versions.items()))]


def _value(found: object) -> str:
    """Say a setting in words a reader of no Python knows."""
    return (
        {True: "yes", False: "no", None: "not set"}[found] if found is None or isinstance(found, bool) else str(found)
    )


def _steps(run: TrainingRun, seen: Seen) -> list[tuple[Run, ...]]:
    def loss(value: float | None) -> str:
        return "none" if value is None else f"{value:.6g}"

    return [
        ("steps taken", f"{seen.n_steps} of {run.n_steps}"),
        ("steps verified", str(seen.n_verified) if run.preserve_batches else "none: batches were not preserved"),
        ("loss of the first step", loss(seen.first_loss)),
        ("loss of the last step", loss(seen.last_loss)),
        ("lowest loss", loss(seen.lowest_loss) + (f", in step {seen.lowest_step}" if seen.lowest_step else "")),
    ]


def _check(origin: Origin | None) -> tuple[Paragraph | Listing, ...]:
    blocks: list[Paragraph | Listing] = [
        Paragraph(
            (
                Code("manifest.json"),
                " names the SHA-256 of every file in this folder, this card included; its own SHA-256 is stored "
                "with the training.",
            )
        )
    ]
    if origin is not None:
        blocks += [
            Paragraph(("Where the training was made, this recomputes every link of the chain from stored rows:",)),
            Listing((f"routeprint verify {origin.training_id}",), "sh"),
        ]
    return tuple(blocks)


def _limits(run: TrainingRun) -> list[str]:
    found = [
        "Verified means that each step was given its analysis batch. It does not mean that the model is safer, or "
        "better at anything: that takes an evaluation on prompts that chose nothing here.",
        "Losses are those of the training's own batches, not of held-out prompts.",
        "Routing follows topic, and a difference in routing is not yet a cause.",
        "The licence of the base model and the terms of its prompts apply to this model too; neither is repeated here.",
    ]
    if run.choice.per_batch is not None:
        found.append("A set chosen from a single batch stands on few prompts: compare it with the batch's noise floor.")
    return found
