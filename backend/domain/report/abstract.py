"""The abstract: one paragraph made of the figures. Which words it uses depends on what the tests allow.

It never says that an expert brings anything about: a difference in routing is an association.
"""

import numpy as np

from backend.domain.report.document import Strong, Text
from backend.domain.report.facts import Facts, StatisticsFacts
from backend.domain.report.words import count, interval, number, p_value, plural, shown, signed

_TOKENS = {"prompt": "prompt tokens", "response": "response tokens", "last": "last prompt tokens"}


def abstract(facts: Facts) -> Text:
    """Return the paragraph."""
    if facts.table is None:
        return (*_setting(facts), f" There is no result yet: {facts.reason}.")
    runs = [*_setting(facts), *_largest(facts)]
    runs += _tests(facts, facts.statistics) if facts.statistics else [f" {no_statistics(facts)}"]
    if facts.statistics:
        runs.append(_prediction(facts.statistics))
    if facts.prompts.aliased:
        runs.append(f" {facts.prompts.aliased}, so a difference between the labels may be one between the sources.")
    runs.append(
        " These figures describe an association in these prompts; they do not say whether an expert plays any part in "
        "how the model behaves."
    )
    return tuple(runs)


def no_statistics(facts: Facts) -> str:
    """Say that nothing here is tested."""
    state = {
        "": "no statistics have been computed",
        "queued": "the statistics are queued",
        "running": "the statistics are being computed",
    }.get(facts.waiting, f"the statistics have {facts.waiting}")
    return f"No difference here is called significant: {state} for this token scope and pool."


def _setting(facts: Facts) -> list[str | Strong]:
    measured, plan, meaning = facts.measured, facts.analysis.plan, facts.prompts.meaning
    partly = measured.n_batches < plan["n_batches"]
    batches = f"{count(measured.n_batches)} of {count(plan['n_batches'])} planned batches"
    top_k = sorted({site.top_k for site in facts.sites})
    return [
        f"We counted which experts of {shown(facts.model.id)} ({plural(len(facts.sites), 'MoE site')}, "
        f"{count(facts.n_experts)} routed experts, top-{' or '.join(map(str, top_k))}) received the "
        f"{_TOKENS[facts.scope]} of {plural(measured.n_prompts, 'prompt')} of the set “{shown(facts.prompts.name)}”"
        f"{f', in {batches} so far' if partly else ''}. In this set, “safe” means {shown(meaning.safe)}, “unsafe” "
        f"means {shown(meaning.unsafe)}."
    ]


def _largest(facts: Facts) -> list[str | Strong]:
    assert facts.table is not None
    row, expert = divmod(int(np.nanargmax(np.abs(facts.risk_diff))), facts.risk_diff.shape[1])
    value = facts.risk_diff[row, expert]
    more = "unsafe" if value > 0 else "safe"
    rates = [number(table[row, expert], facts.decimals) for table in (facts.table.rate_unsafe, facts.table.rate_safe)]
    if not value:
        return [" No expert was chosen more often for one label than for the other."]
    return [
        " The largest difference in activation rate was ",
        Strong(f"risk_diff = {signed(value, facts.decimals)}"),
        f" ({facts.place(row, expert)}: {rates[0]} on unsafe, {rates[1]} on safe prompts; it fired more on {more}).",
    ]


def _tests(facts: Facts, statistics: StatisticsFacts) -> list[str | Strong]:
    summary = statistics.summary
    if not statistics.testable:
        return [
            " Whether any expert differs by more than chance cannot be tested in this design "
            f"({_lowered(shown(summary['design']['reason']).rstrip('.'))}), so none is called significant."
        ]
    family = (
        f"a permutation test over {summary['design']['unit_name']}s, max-T over {count(summary['n_tested'])} experts, "
        f"family-wise α = {summary['alpha']:g}, smallest attainable p {p_value(summary['smallest_p'])}"
    )
    found = summary["n_significant"]
    if not found:
        return [f" No expert differed significantly ({family})."]
    return [
        " ",
        Strong(f"{plural(found, 'expert')} of {count(summary['n_tested'])} differed significantly"),
        f" ({family}): {count(summary['n_significant_unsafe'])} fired more on unsafe, "
        f"{count(summary['n_significant_safe'])} more on safe prompts.",
    ]


def _lowered(words: str) -> str:
    return words[:1].lower() + words[1:]


def _prediction(statistics: StatisticsFacts) -> str:
    """What routing tells beyond words: by the interval of the difference, never by two point estimates."""
    found = statistics.summary["baselines"]
    if found["reason"] or not found.get("routing") or found["routing"]["auc"] is None:
        return ""
    routing, tokens, less = found["routing"], found["tokens"], found["routing_less_tokens"]
    if less["low"] is None or less["low"] <= 0 <= less["high"]:
        verdict = "routing did not tell the labels apart measurably better or worse than the words did"
    elif less["low"] > 0:
        verdict = "routing told the labels apart better than a bag of words did"
    else:
        verdict = "routing told the labels apart less well than the words alone did"
    return (
        f" On held-out prompts, routing separated the labels with an AUC of {number(routing['auc'], 3)} "
        f"{interval_of(routing)}, the bag of token ids alone with {number(tokens['auc'], 3)} {interval_of(tokens)}: "
        f"{verdict} (95 % intervals)."
    )


def interval_of(area: dict[str, float | None]) -> str:
    """Return an interval of an AUC as '[0.61, 0.70]'."""
    return interval(area["low"], area["high"], 3).replace("+", "")
