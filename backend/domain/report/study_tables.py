"""Tables and figures of a study's report, and the facts that it is made from. Not covered: its words (study.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.report.document import Block, Code, Column, Dots, Paragraph, Run, Section, Table, text
from backend.domain.report.words import count, interval, number, p_value, percent, signed

Found = Mapping[str, Any]
ARMS = (("preserved", "batches kept"), ("shuffled", "reshuffled"))


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What a report of a study says, read from the store. Parts are plain JSON as the tables hold it.

    analysis: id, name, plan_digest, plan, params; prompts, asked: id, name, sha256, n_safe, n_unsafe; model: id,
    digests; experts: id, name, sha256, experts; environment: of the first training.
    """

    version: str
    id: str
    name: str
    finished_at: str | None
    sha256: str | None
    params: Found
    result: Found
    analysis: Found
    prompts: Found
    asked: Found
    model: Found
    experts: Found
    environment: Found

    @property
    def n(self) -> int:
        """Seeds per arm."""
        return len(self.params["seeds"])


def results(facts: StudyFacts) -> Section:
    """Return what came out: maps, both arms, tests, every run."""
    measures = facts.result["measures"]
    parts = [
        Section("maps", "Reproducibility of the routing", _maps(facts.result["maps"])),
        Section("levels", "Both arms, figure by figure", (_arms(measures), *(_dots(one) for one in measures))),
        Section("tests", "What differs", (_tests(measures),)),
        Section("runs", "Every run", (_runs(facts.result, measures),)),
    ]
    return Section("results", "What came out", (), tuple(parts))


def _maps(maps: Found) -> tuple[Block, ...]:
    rows = tuple(
        (
            name,
            count(len(own["pairs"])),
            number(own["mean_distance"], 6),
            number(own["mean_correlation"], 4),
            number(own["mean_of_changes"], 4),
        )
        for arm, name in ARMS
        for own in [maps["arms"][arm]]
    )
    test = maps["test"]
    note = (
        f"Reshuffled / kept: {number(maps['ratio'], 3)}; p = {p_value(test['p'])}, smallest attainable "
        f"{p_value(test['smallest_p'])} ({count(test['n_arrangements'])} arrangements"
        f"{'' if test['exact'] else ', drawn at random'}). The means of the arms lie "
        f"{number(maps['between_means'], 6)} apart."
    )
    table = Table(
        "agreement",
        "Agreement between the seeds of an arm",
        (
            Column("Arm"),
            Column("Pairs", "right"),
            Column("Mean distance", "right"),
            Column("Mean correlation", "right"),
            Column("of the changes", "right"),
        ),
        rows,
        text(note),
    )
    figure = Dots(
        "map-distances",
        "Distances between trained models",
        text(
            "A dot is a pair of seeds of one arm, above where batches were kept, below where samples were reshuffled; "
            "the bar is their mean."
        ),
        tuple(
            (name, tuple(pair["distance"] for pair in own["pairs"]), own["mean_distance"])
            for arm, name in ARMS
            for own in [maps["arms"][arm]]
        ),
        None,
        "",
        f"root mean square difference of risk_diff over {count(maps['n_experts'])} experts",
    )
    return table, figure


def _dots(measure: Found) -> Dots:
    percents = measure["unit"] == "share"
    scale = 100.0 if percents else 1.0
    base = measure["base"]
    return Dots(
        f"dots-{measure['key']}",
        measure["title"],
        text(
            "A dot is a run, above where batches were kept, below where samples were reshuffled; the bar is the mean",
            ", the broken line the untrained model." if base is not None else ".",
        ),
        tuple(
            (
                name,
                tuple(scale * value for value in measure["arms"][arm]["values"]),
                None if measure["arms"][arm]["mean"] is None else scale * measure["arms"][arm]["mean"],
            )
            for arm, name in ARMS
        ),
        None if base is None else scale * base,
        "untrained model",
        f"{measure['title']} ({'%' if percents else measure['unit']})",
    )


def _value(measure: Found, value: float | None) -> str:
    return percent(value) if measure["unit"] == "share" else number(value, 4)


def _arms(measures: Sequence[Found]) -> Table:
    rows = []
    for one in measures:
        own = [one["arms"][arm] for arm, _ in ARMS]
        rows.append(
            (
                one["title"],
                _value(one, one["base"]),
                *(cell for arm in own for cell in (_value(one, arm["mean"]), _value(one, arm["sd"]))),
            )
        )
    columns = (
        Column("Figure"),
        Column("Untrained", "right"),
        Column("Kept: mean", "right"),
        Column("SD", "right"),
        Column("Reshuffled: mean", "right"),
        Column("SD", "right"),
    )
    return Table("arms", "Mean and standard deviation over the seeds", columns, tuple(rows))


def _tests(measures: Sequence[Found]) -> Table:
    rows = tuple(
        (
            one["title"],
            signed(one["level"]["mean"]),
            interval(one["level"]["low"], one["level"]["high"]) if one["level"]["sd"] else "–",
            p_value(one["level"]["p"]),
            p_value(one["level"]["p_holm"]),
            number(one["spread"]["ratio"], 2),
            p_value(one["spread"]["p"]),
            p_value(one["spread"]["p_holm"]),
        )
        for one in measures
    )
    columns = (
        Column("Figure"),
        Column("Kept − reshuffled", "right"),
        Column("95 % interval", "right"),
        Column("p", "right"),
        Column("adjusted", "right"),
        Column("SD ratio", "right"),
        Column("p", "right"),
        Column("adjusted", "right"),
    )
    smallest = min((one["level"]["smallest_p"] for one in measures if one["level"]["smallest_p"]), default=None)
    note = (
        f"SD ratio: reshuffled / kept. The smallest attainable p for a difference in level is {p_value(smallest)}. A "
        "dash: every run gave the same, so there is nothing to test."
    )
    return Table("differences", "Differences in level and in scatter", columns, rows, text(note))


def _runs(result: Found, measures: Sequence[Found]) -> Table:
    columns = (
        Column("Arm"),
        Column("Seed", "right"),
        Column("Training"),
        *(Column(one["title"], "right") for one in measures),
    )
    names = dict(ARMS)
    rows: tuple[tuple[Run, ...], ...] = tuple(
        (
            names[run["arm"]],
            str(run["seed"]),
            Code(run["ids"]["training"]),
            *(_value(one, run["figures"].get(one["key"])) for one in measures),
        )
        for run in result["runs"]
    )
    return Table("every-run", "Every run", columns, rows)


def causal_check(facts: StudyFacts) -> Section:
    """Return what steering the set did, beside random sets."""
    causal = facts.result["causal"]
    rows: list[tuple[Run, ...]] = []
    for one in causal["measures"]:
        show = percent if one["scale"] == "rate" else number
        for control in one["controls"]:
            rows.append(
                (
                    one["key"].replace("_", " "),
                    show((one["baseline"] or {}).get("value")),
                    show((one["real"] or {}).get("value")),
                    control["family"].replace("_", "-"),
                    f"{control['n_as_extreme'] if control['n_as_extreme'] is not None else '–'} of {control['n']}",
                    p_value(control["p"]),
                    p_value(control["smallest_p"]),
                )
            )
    columns = (
        Column("Measure"),
        Column("Unchanged", "right"),
        Column("With the intervention", "right"),
        Column("Random sets"),
        Column("As far", "right"),
        Column("p", "right"),
        Column("at best", "right"),
    )
    verb = facts.params["evaluation"]["intervention"]
    intro = text(
        f"On the untrained model the experts of the set were {verb}d at the router, beside random sets of the "
        "same size per layer and, where asked, others of the same load. A set that does more than random ones matters "
        "for these answers; it need not be where refusal is decided. Evaluation ",
        Code(causal["evaluation_id"]),
        ".",
    )
    return Section(
        "causal",
        "Does the set matter?",
        (Paragraph(intro), Table("causal-check", "Causal check", columns, tuple(rows))),
    )
