"""The report of a study: what was asked, what came out whichever way, and what so few runs can and cannot show."""

from backend.domain.report.as_html import as_html
from backend.domain.report.as_markdown import as_markdown
from backend.domain.report.document import (
    Block,
    Bullets,
    Code,
    Column,
    Document,
    Listing,
    Paragraph,
    Run,
    Section,
    Strong,
    Table,
    Text,
    text,
)
from backend.domain.report.study_tables import StudyFacts, causal_check, results
from backend.domain.report.words import count, day, plural, shown


def study_report(facts: StudyFacts, form: str) -> bytes:
    """Return the report as a file, html or md. The same facts give the same bytes."""
    document = compose(facts)
    return (as_html(document) if form == "html" else as_markdown(document)).encode()


def compose(facts: StudyFacts) -> Document:
    """Return the report as blocks."""
    size = facts.params["estimate"]
    head: list[tuple[str, Run]] = [
        ("Model", shown(facts.model["id"])),
        ("Seeds", f"{facts.n} per arm"),
        ("Runs", count(size["n_runs"])),
        ("Experts trained", count(len(facts.experts["experts"]))),
        ("Prompts trained", count(facts.analysis["plan"]["n_samples"])),
        ("Prompts asked", count(facts.result["causal"]["overlap"]["n_prompts"])),
        ("Finished", day(facts.finished_at)),
    ]
    return Document(
        title=shown(facts.name),
        subtitle="The same training with the batches of the analysis kept and with its samples reshuffled",
        facts=tuple(head),
        abstract=_abstract(facts),
        sections=(_method(facts), results(facts), causal_check(facts), _caveats(facts), _record(facts)),
        footer=text("Written by Routeprint ", facts.version, " from the stored record of ", Code(facts.id), "."),
        made_with=f"Routeprint {facts.version}",
    )


def _abstract(facts: StudyFacts) -> Text:
    runs: list[Run] = []
    for one in facts.result["verdicts"]:
        runs += [shown(one["text"]), " "]
    return tuple(runs[:-1])


def _method(facts: StudyFacts) -> Section:
    training, n = facts.params["training"], facts.n
    plan = facts.analysis["plan"]
    varies = facts.result["varies"]
    targets = "one digest in all runs" if varies["same_targets"] else "digests that are NOT the same in all runs"
    blocks: list[Block] = [
        Paragraph(
            text(
                f"{plural(n, 'training')} per arm, seeds {', '.join(map(str, facts.params['seeds']))}, from the same "
                f"weights, on the same {count(plan['n_samples'])} prompts, {plural(training['epochs'], 'epoch')}, "
                f"learning rate {training['learning_rate']:g}, mode {training['mode']}, routing {training['routing']}. "
                "In one arm every optimizer step is a batch of the analysis, whole and unchanged, and the seed chooses "
                "the order of the batches; in the other the samples are flattened and the seed chooses which come "
                "together, and in which order. The answers that are learned were frozen beforehand: ",
                targets,
                ".",
            )
        ),
        Paragraph(
            text(
                f"{count(varies['verified']['preserved'])} of {count(varies['steps']['preserved'])} steps of the arm "
                "that keeps batches were proven, inside the forward call, to hold their analysis batch. Every trained "
                "model was then measured on the plan of the analysis and asked the same prompts as the untrained one."
            )
        ),
        Table(
            "figures",
            "What is taken from every run",
            (Column("Figure"), Column("Unit"), Column("How it is made")),
            tuple((one["title"], one["unit"], one["what"]) for one in facts.result["measures"]),
        ),
        Paragraph(
            text(
                Strong("Tests. "),
                "A run is the unit. Level: sign flips of the differences, paired by seed. Scatter: each arm is moved "
                f"to its own median, then the runs are dealt to the arms {_ways(facts)}; the statistic is the ratio "
                "of the mean distances between runs. The primary question, whether the risk_diff maps lie closer "
                "together where batches are kept, is asked once; all other p-values are adjusted for their number "
                "(Holm). Intervals of means and deviations take runs to scatter normally.",
            )
        ),
    ]
    return Section("method", "What was done", tuple(blocks))


def _ways(facts: StudyFacts) -> str:
    test = facts.result["maps"]["test"]
    return "in every way" if test["exact"] else f"in {count(test['n_arrangements'])} ways, most drawn at random"


def _caveats(facts: StudyFacts) -> Section:
    overlap = facts.result["causal"]["overlap"]
    n = facts.n
    items: list[Text] = [
        text(
            Strong("Few runs. "),
            f"{plural(n, 'seed')} are {n} runs per arm, whatever the number of prompts. What is not shown is not shown "
            "to be absent; the intervals say how large it could be.",
        ),
        text(
            Strong("One model, one prompt set, one setting. "),
            "Another learning rate, batch size or model can come out otherwise. The arms differ in two things at once: "
            "batches that are kept also keep their ratio of safe and unsafe in every step.",
        ),
        text(
            Strong("Refusals "),
            f"were judged by {facts.params['evaluation']['judge']['kind']}; an answer that is not a refusal need not "
            "be harmful, or make sense.",
        ),
        text(
            Strong("Routing follows topic. "),
            "risk_diff between prompts of two sources says at least as much about topic and wording as about safety.",
        ),
    ]
    if overlap["n_seen"]:
        items.insert(
            0,
            text(
                Strong("In-sample. "),
                f"{count(overlap['n_seen'])} of {count(overlap['n_prompts'])} prompts that were asked, or their "
                "groups, had been used to choose the experts or to train.",
            ),
        )
    return Section("caveats", "What this does not show", (Bullets(tuple(items)),))


def _record(facts: StudyFacts) -> Section:
    rows: tuple[tuple[Run, ...], ...] = (
        ("Study, result", Code(facts.sha256 or "–")),
        ("Prompts measured and trained", Code(facts.prompts["sha256"])),
        ("Prompts asked", Code(facts.asked["sha256"])),
        ("Batch plan", Code(facts.analysis["plan_digest"])),
        ("Expert set", Code(facts.experts["sha256"])),
        *((f"Model, {name}", Code(value)) for name, value in facts.model["digests"].items() if value),
    )
    pairs = " ".join(f"{layer}.{expert}" for layer, expert in facts.experts["experts"])
    shown_of = {
        name: facts.environment[name] for name in ("device", "n_processes", "threads") if name in facts.environment
    }
    seen = [
        text(f"{name.replace('n_', '')}: ", Code(shown(str(value))))
        for name, value in (shown_of | dict(sorted(facts.environment.get("versions", {}).items()))).items()
    ]
    lines = (
        f'curl -H "Authorization: Bearer $(routeprint token)" $API/studies/{facts.id}',
        f"routeprint export {facts.id} --report -o study.html",
    )
    return Section(
        "record",
        "Record",
        (
            Table("hashes", "SHA-256", (Column("What"), Column("Digest")), rows),
            Paragraph(text("Experts trained (layer.expert): ", Code(pairs), ".")),
            Bullets(tuple(seen)) if seen else Paragraph(text("No environment was recorded.")),
            Listing(lines, "bash"),
        ),
    )
