"""The record: versions, hashes, the checked chain, and how to get every figure again."""

import json
from typing import Any

from backend.domain.report.document import Block, Code, Column, Listing, Paragraph, Run, Section, Strong, Table, text
from backend.domain.report.facts import Facts
from backend.domain.report.words import NOTHING, count, day, shown


def versions(facts: Facts) -> Section:
    """Return the section of versions and hashes."""
    return Section("versions", "Versions and hashes", (_software(facts), _hashes(facts), *_chain(facts)))


def _software(facts: Facts) -> Table:
    runs = {"Analysis": facts.analysis.environment}
    if facts.statistics:
        runs["Statistics"] = facts.statistics.environment
    names = sorted({name for run in runs.values() for name in run.get("versions", {})})
    rows: list[tuple[Run, ...]] = [("routeprint (this report)", *[facts.version] * len(runs))]
    for name in names:
        rows.append((name, *(shown(str(run.get("versions", {}).get(name, NOTHING))) for run in runs.values())))
    for name in ("device", "threads"):
        rows.append((name, *(shown(str(run.get(name, NOTHING))) for run in runs.values())))
    columns = (Column("Software"), *(Column(f"{name} ran with") for name in runs))
    return Table("software", "Software", columns, tuple(rows))


def _hashes(facts: Facts) -> Table:
    digests = facts.model.digests
    rows: list[tuple[Run, ...]] = [
        ("Prompt set", Code(facts.prompts.sha256)),
        *((f"File {shown(file.name)}", Code(file.sha256)) for file in facts.prompts.files),
        ("Batch plan", Code(facts.analysis.plan_digest)),
        *(
            (f"Model {name}", Code(digests.get(name) or "none"))
            for name in ("weights", "config", "tokenizer", "template")
        ),
    ]
    if facts.statistics:
        rows.append(("What the statistics stand on", Code(facts.statistics.input_digest or "none")))
        rows.append(("What they found", Code(facts.statistics.sha256 or "none")))
    return Table("hashes", "SHA-256", (Column("Of"), Column("Digest")), tuple(rows))


def _chain(facts: Facts) -> tuple[Block, ...]:
    if facts.links is None:
        words = "The chain from prompts to risk_diff was not checked when this report was made."
        return (Paragraph(text(words)),)
    rows: list[tuple[Run, ...]] = []
    for link in facts.links:
        where = "" if link.ok else shown(f"{link.where or ''} expected {link.expected}, found {link.found}".strip())
        rows.append((shown(link.name), "yes" if link.ok else Strong("NO"), count(link.checked), where))
    columns = (Column("Link"), Column("Holds"), Column("Checked", "right"), Column("First break"))
    holds = all(link.ok for link in facts.links)
    note = "Every link was computed again from the stored rows" + (
        ", and holds." if holds else ": the chain is broken where it says NO."
    )
    return (Table("chain", "The chain, verified", columns, tuple(rows), text(note)),)


def reproduce(facts: Facts) -> Section:
    """Return the section that gives every call with every parameter, and how to cite."""
    return Section(
        "reproduce",
        "Reproduce",
        (
            Paragraph(
                text(
                    "With the same prompt set (its SHA-256 above), the same model and the same seed, these calls give "
                    "the same plan, and on the same device and versions the same counts. Statistics follow from the "
                    "counts; their last digits, and so their SHA-256, may differ with the number of threads."
                )
            ),
            Listing(tuple(_calls(facts)), "bash"),
            Paragraph(text("What this report was written from, and the whole tables behind it:")),
            Listing(tuple(_reads(facts)), "bash"),
            Paragraph(text("To cite the software, with its version and the identity of this analysis:")),
            Listing(_citation(facts), "bibtex"),
        ),
    )


def _calls(facts: Facts) -> list[str]:
    analysis, prompts = facts.analysis, facts.prompts
    files = " ".join(f"-F {_quoted(f'file=@{shown(file.name)}')}" for file in prompts.files)
    meaning = prompts.meaning.to_dict()
    kind = meaning["kind"] if meaning["kind"] != "other" else json.dumps({k: meaning[k] for k in ("safe", "unsafe")})
    asked = {name: value for name, value in analysis.params.items() if value is not None and name != "dataset_id"}
    body = {"dataset_id": "DATASET", "model": facts.model.id} | asked
    lines = [
        "API=http://127.0.0.1:8321/api/v1",
        'AUTH="Authorization: Bearer $(routeprint token)"',
        f'curl -H "$AUTH" $API/datasets {files} -F {_quoted(f"name={shown(prompts.name)}")} '
        f"-F {_quoted(f'label_meaning={kind}')}{_labels(facts)}",
        f"# the id of that answer in place of DATASET (here it was {prompts.id})",
        f'curl -H "$AUTH" $API/analyses --json {_json(body)}',
    ]
    if facts.statistics:
        asked = {
            name: value for name, value in facts.statistics.params.items() if value is not None and name != "method"
        }
        lines += ["# ANALYSIS: the id of that answer, once it has succeeded"]
        lines += [f'curl -H "$AUTH" $API/analyses/ANALYSIS/statistics --json {_json(asked)}']
    return lines


def _labels(facts: Facts) -> str:
    if not any(file.label for file in facts.prompts.files):
        return ""
    return "".join(f" -F {_quoted(f'label={file.label or str()}')}" for file in facts.prompts.files)


def _reads(facts: Facts) -> list[str]:
    path, asked = f"$API/analyses/{facts.analysis.id}", f"scope={facts.scope}&pool={facts.pool}"
    lines = [f'curl -H "$AUTH" "{path}/report?format=html&{asked}" -o report.html']
    lines += [f'curl -H "$AUTH" "{path}/risk-diff?format=csv&{asked}" -o risk_diff.csv']
    if facts.statistics:
        lines += [f'curl -H "$AUTH" "$API/statistics/{facts.statistics.id}/experts?format=csv" -o experts.csv']
    if facts.context:
        lines += [f'curl -H "$AUTH" "$API/context/{facts.context.id}/experts?pool={facts.pool}&limit=500"']
    return [*lines, f'curl -H "$AUTH" -X POST {path}/verify']


def _citation(facts: Facts) -> tuple[str, ...]:
    identity = f"analysis {facts.analysis.id}, plan {facts.analysis.plan_digest[:16]}"
    if facts.statistics:
        identity += f", statistics {(facts.statistics.sha256 or '')[:16]}"
    return (
        "@software{routeprint,",
        "  title   = {Routeprint: routing of Mixture-of-Experts models on safe and unsafe prompts},",
        f"  version = {{{facts.version}}},",
        f"  year    = {{{facts.as_of[:4]}}},",
        f"  note    = {{{identity}; {day(facts.as_of)}}}",
        "}",
    )


def _json(value: Any) -> str:
    return _quoted(json.dumps(value, sort_keys=True, default=list))


def _quoted(argument: str) -> str:
    """Return an argument that a shell takes as it is, whatever it holds."""
    return "'" + argument.replace("'", "'\\''") + "'"
