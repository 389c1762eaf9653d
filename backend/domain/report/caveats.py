"""What a reader must know before believing a figure: each caveat stands here only where the data call for it."""

from collections.abc import Callable, Iterator

from backend.domain.report.document import Bullets, Section, Strong, Text, text
from backend.domain.report.facts import Facts
from backend.domain.report.words import count, number, p_value, percent, plural, shown
from backend.domain.vocabulary import Label

FEW = 50
"""Prompts (or groups) of a label below which the report warns."""
UNLIKE = 1.1
"""Ratio of the labels' median lengths above which the report warns."""


def caveats(facts: Facts) -> Section:
    """Return the section."""
    found: list[Text] = []
    for look in _LOOKS:
        found += look(facts)
    return Section("caveats", "Caveats", (Bullets(tuple(found)),))


def _unfinished(facts: Facts) -> Iterator[Text]:
    planned, measured = facts.analysis.plan["n_batches"], facts.measured
    if facts.analysis.status != "succeeded" or measured.n_batches + measured.n_non_finite < planned:
        yield text(
            Strong("Unfinished. "),
            f"The analysis is {facts.analysis.status}, with {count(measured.n_batches)} of {count(planned)} batches "
            "measured: every figure will change.",
        )
    if measured.n_non_finite:
        yield text(
            Strong("Values that are not finite. "),
            f"In {plural(measured.n_non_finite, 'batch', 'batches')} the router gave a NaN or an infinity; their "
            "prompts are in no figure.",
        )


def _tests(facts: Facts) -> Iterator[Text]:
    if facts.statistics is None:
        yield text(Strong("Nothing is tested. "), "There are no finished statistics; the order of experts may be luck.")
    elif not facts.statistics.testable:
        yield text(
            Strong("Not testable. "),
            f"{shown(facts.statistics.summary['design']['reason'])} Intervals and baselines, where given, do not mend "
            "this.",
        )
    elif (smallest := facts.statistics.summary["smallest_p"]) is not None and smallest > 0.01:
        yield text(
            Strong("Coarse p-values. "), f"The smallest p-value that could have come out is {p_value(smallest)}."
        )


def _turned(facts: Facts) -> Iterator[Text]:
    """Adjusting for groups or strata may turn the sign of what is tested."""
    if facts.statistics is None or facts.table is None:
        return
    turned = facts.significant & (facts.statistics.figures["difference"] * facts.risk_diff < 0)
    if n := int(turned.sum()):
        yield text(
            Strong("Signs that turn. "),
            f"For {plural(n, 'significant expert')} the tested difference, adjusted for groups and strata, has the "
            "other sign than risk_diff: call neither label its own.",
        )


def _aliased(facts: Facts) -> Iterator[Text]:
    if not facts.prompts.aliased:
        return
    yield text(
        Strong("Label and source cannot be told apart. "),
        f"{facts.prompts.aliased}. Whatever else differs between the sources (topic, wording, length, who wrote it) is "
        "in risk_diff, too, and a small p-value says that the sources differ, not that safety does. With the source as "
        "stratum nothing would be testable. Contrast pairs, which differ in the label and in little else, would answer "
        "the question.",
    )


def _lengths(facts: Facts) -> Iterator[Text]:
    ratio, lengths = facts.length_ratio, facts.measured.lengths
    if ratio > UNLIKE:
        longer = max(lengths, key=lambda label: lengths[label])
        yield text(
            Strong("Lengths differ. "),
            f"The median {longer} prompt is {number(ratio, 2)} times as long ({number(lengths[Label.SAFE], 1)} tokens "
            f"safe, {number(lengths[Label.UNSAFE], 1)} unsafe). Tokens that stand in every prompt (the template's, the "
            "system prompt's, the first ones) weigh more in short prompts, which alone can move rates. Compare the AUC "
            "of prompt length.",
        )


def _units(facts: Facts) -> Iterator[Text]:
    if not facts.prompts.n_grouped:
        yield text(
            Strong("No groups. "),
            "The set names neither topics nor contrast pairs, so prompts were taken as independent. If whole topics "
            "carry one label, tests over prompts are too lenient and intervals too narrow.",
        )
    unit, fewest = "prompts", 0 if facts.table is None else min(facts.table.n_safe, facts.table.n_unsafe)
    if facts.statistics and facts.statistics.testable:
        design = facts.statistics.summary["design"]
        fewest = min(design["n_units_safe"], design["n_units_unsafe"]) + design["n_units_both"]
        unit = f"{design['unit_name']}s"
    if facts.table is not None and fewest < FEW:
        yield text(Strong("Few units. "), f"The smaller label has {count(fewest)} {unit}; expect wide intervals.")


def _measurement(facts: Facts) -> Iterator[Text]:
    measured, params = facts.measured, facts.analysis.params
    if measured.n_truncated:
        share = percent(measured.n_truncated / max(measured.n_prompts, 1))
        yield text(
            Strong("Truncated prompts. "),
            f"{plural(measured.n_truncated, 'prompt')} ({share}) were cut at {count(params['max_length'])} tokens; "
            "what stood behind the cut was not seen.",
        )
    dtype = str(params.get("dtype", "auto"))
    if dtype != "float32":
        yield text(
            Strong("Number format. "),
            f"The format was “{dtype}”. In half precision the router's near-ties may fall the other way than in "
            "float32: counts are of what this run did.",
        )
    if facts.analysis.engine == "vllm":
        yield text(
            Strong("vLLM "), "gives which experts were chosen, not their routing weights: only choices are counted."
        )
    if facts.scope == "response":
        yield text(
            Strong("Response tokens. "), "Differences there mostly reflect the wording of answers, such as refusals."
        )
    if plan_left := facts.analysis.plan["n_left_out"]:
        yield text(
            Strong("Prompts left out. "),
            f"{plural(plan_left, 'prompt')} of the set stood in no batch, so the figures are not of the whole set.",
        )


def _drift(facts: Facts) -> Iterator[Text]:
    found = facts.statistics.summary["drift"] if facts.statistics else {}
    if found.get("p") is not None and found["p"] <= 0.05:
        yield text(
            Strong("Drift. "), "risk_diff changed from the first to the last batch: the batches are not alike in kind."
        )


def _chain(facts: Facts) -> Iterator[Text]:
    if facts.links is not None and not all(link.ok for link in facts.links):
        yield text(
            Strong("The chain of provenance is broken. "),
            "What is stored does not follow from what it should follow from (see Versions and hashes): do not use "
            "these figures.",
        )


def _always(_: Facts) -> Iterator[Text]:
    yield text(
        Strong("In-sample. "),
        "Experts are ranked by the same prompts that give their risk_diff, so the first of a list look stronger than "
        "they are; split halves show by how much. What the experts do must be measured on other prompts and groups.",
    )
    yield text(
        Strong("Routing follows topic. "),
        "An expert that fires more on unsafe prompts may only know what they are about. A difference in routing is not "
        "yet a cause: that takes an intervention, beside random sets of experts of the same size.",
    )


_LOOKS: tuple[Callable[[Facts], Iterator[Text]], ...] = (
    _chain,
    _unfinished,
    _tests,
    _turned,
    _aliased,
    _lengths,
    _units,
    _measurement,
    _drift,
    _always,
)
