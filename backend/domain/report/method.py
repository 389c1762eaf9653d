"""The method section: prompts, batches, model, measure and statistics, so that a reader could do it again."""

from backend.domain.report.document import Code, Column, Listing, Paragraph, Run, Section, Strong, Table, Text, text
from backend.domain.report.facts import Facts, StatisticsFacts
from backend.domain.report.words import NOTHING, count, listed, number, p_value, percent, plural, shown
from backend.domain.vocabulary import LABELS, Label

_STRATEGY = {
    "shuffled": "rows in a seeded random order",
    "as_listed": "rows in the order of the prompt set",
    "stratified": "every batch gets the overall mix of the strata, per label",
    "paired": "both members of a contrast pair stand in one batch",
}
_SCOPE = {
    "prompt": "every token of the prompt",
    "response": "every token of the response",
    "last": "the last prompt token alone",
}
_POOL = {"mean": "every prompt weighs the same", "pooled": "every token weighs the same"}
FORMULAS = (
    "pool mean:    rate(expert, label) = mean over the label's prompts of  count / tokens",
    "pool pooled:  rate(expert, label) = sum of counts / sum of tokens, over the label's prompts",
    "risk_diff(expert) = rate(expert, unsafe) − rate(expert, safe)",
)


def method(facts: Facts) -> Section:
    """Return the section."""
    parts = (
        Section("prompts", "Prompts and batches", (*_prompts(facts), _prompt_table(facts))),
        Section("model", "Model and measurement", (_model(facts), _run_table(facts))),
        Section("measure", "Measure", _measure(facts)),
        Section("statistics", "Statistics", _statistics(facts)),
    )
    return Section("method", "Method", (), parts)


def _prompts(facts: Facts) -> tuple[Paragraph, ...]:
    prompts, plan, params = facts.prompts, facts.analysis.plan, facts.analysis.params
    reasons = "; ".join(f"{shown(reason)} ({count(n)})" for reason, n in plan["left_out_reasons"].items())
    left_out = (
        f"{plural(plan['n_left_out'], 'prompt')} stood in no batch: {reasons}."
        if plan["n_left_out"]
        else "None was left out."
    )
    grouped = (
        f"{count(prompts.n_grouped)} rows belong to one of {plural(prompts.n_groups, 'group')} (topics or contrast "
        "pairs), which are the unit of resampling."
        if prompts.n_grouped
        else "The set has no groups (topics or contrast pairs), so the prompt is the unit of resampling."
    )
    return (
        Paragraph(
            text(
                f"The prompt set “{shown(prompts.name)}” has {count(prompts.n_rows)} prompts, {count(prompts.n_safe)} "
                f"labelled safe and {count(prompts.n_unsafe)} unsafe; {plural(prompts.n_duplicates, 'duplicate')} had "
                f"been left out at import. “Safe” means {shown(prompts.meaning.safe)}; “unsafe” means "
                f"{shown(prompts.meaning.unsafe)}. {grouped}"
            )
        ),
        Paragraph(
            text(
                f"Batches were planned before anything was measured: {count(params['batch_size'])} prompts each, safe "
                f"ones a share of {params['safe_ratio']:g}, strategy ",
                Code(params["strategy"]),
                f" ({_STRATEGY.get(params['strategy'], '')}), seed {params['seed']}. {count(plan['n_samples'])} "
                f"prompts ({count(plan['n_safe'])} safe, {count(plan['n_unsafe'])} unsafe) stood in "
                f"{plural(plan['n_batches'], 'batch', 'batches')}. {left_out}",
            )
        ),
    )


def _prompt_table(facts: Facts) -> Table:
    measured = facts.measured
    rows: list[tuple[Run, ...]] = []
    for label in LABELS:
        n_set, n_plan = (
            (facts.prompts.n_safe, facts.analysis.plan["n_safe"])
            if label is Label.SAFE
            else (facts.prompts.n_unsafe, facts.analysis.plan["n_unsafe"])
        )
        n_counted = 0 if facts.table is None else getattr(facts.table, f"n_{label}")
        tokens = 0 if facts.table is None else getattr(facts.table, f"tokens_{label}")
        length = measured.lengths.get(label)
        cells = (count(n_set), count(n_plan), count(n_counted), count(tokens), number(length, 1))
        rows.append((str(label), *cells))
    columns = ("Label", "In the set", "In batches", "In the figures", "Tokens counted", "Median prompt length (tokens)")
    return Table(
        "prompt-counts",
        "Prompts by label",
        tuple(Column(title, "right" if place else "left") for place, title in enumerate(columns)),
        tuple(rows),
        text(
            f"Longest prompt: {plural(measured.longest, 'token')}. Truncated at "
            f"{count(facts.analysis.params['max_length'])} tokens: {plural(measured.n_truncated, 'prompt')}."
        ),
    )


def _model(facts: Facts) -> Paragraph:
    model, sites = facts.model, facts.sites
    shapes = sorted({(site.n_experts, site.top_k) for site in sites})
    experts = listed([f"{n} experts with top-{k}" for n, k in shapes])
    layers = [site.layer for site in sites]
    size = f", {count(model.n_parameters)} parameters" if model.n_parameters else ""
    return Paragraph(
        text(
            Code(shown(model.id)),
            f" ({shown(model.architecture or 'architecture no longer listed')}{size}) has "
            f"{plural(len(sites), 'MoE site')} in layers {min(layers)} to {max(layers)}, each of {experts}. Experts "
            "that are always on (shared experts) are not counted. For every prompt and MoE site, the experts that each "
            "token really received were counted inside the forward call; padding never counts.",
        )
    )


def _run_table(facts: Facts) -> Table:
    analysis, params = facts.analysis, facts.analysis.params
    environment = analysis.environment
    template = "the model's chat template" if facts.model.digests.get("template") else "none: plain encoding"
    added = "not counted" if params.get("exclude_template_tokens") else "counted"
    rows: list[tuple[Run, ...]] = [
        ("Engine", Code(analysis.engine)),
        ("Number format", Code(str(params.get("dtype", "auto")))),
        ("Device", shown(str(environment.get("device", NOTHING)))),
        ("Token scope of this report", f"{facts.scope}: {_SCOPE[facts.scope]}"),
        ("Scopes measured", ", ".join(params["scopes"])),
        ("Template", template),
        ("Tokens that the template adds", f"{added} in scope prompt"),
        ("System prompt", _system_prompt(params.get("system_prompt"))),
        ("Longest prompt allowed", f"{count(params['max_length'])} tokens, cut on the right"),
        (
            "Answers generated",
            f"up to {count(params['max_new_tokens'])} tokens" if params["max_new_tokens"] else "none",
        ),
    ]
    if params.get("engine_options"):
        rows.append(("Engine options", Code(str(params["engine_options"]))))
    return Table("run", "How it was run", (Column("Setting"), Column("Value")), tuple(rows))


def _system_prompt(given: str | None) -> Run:
    return Code(shown(given)) if given else "none"


def _measure(facts: Facts) -> tuple[Paragraph | Listing, ...]:
    return (
        Listing(FORMULAS),
        Paragraph(
            text(
                "A positive risk_diff means that the expert fires more on unsafe prompts. (Another published tool uses "
                "the opposite sign.) This report uses pool ",
                Code(facts.pool),
                f": {_POOL[facts.pool]}. Counts are integers, and their sums over batches are exact. At every MoE site "
                "the rates of a label sum to top-k, and risk_diff sums to zero.",
            )
        ),
    )


def _statistics(facts: Facts) -> tuple[Paragraph, ...]:
    if facts.statistics is None:
        how = f"POST /api/v1/analyses/{facts.analysis.id}/statistics"
        return (
            Paragraph(
                text(
                    "There are no finished statistics of this token scope and pool, so nothing in this report is "
                    "tested. They are asked for with ",
                    Code(how),
                    "; write the report again when they have succeeded.",
                )
            ),
        )
    words = (_test_words, _interval_words, _stability_words, _baseline_words)
    return tuple(Paragraph(write(facts.statistics)) for write in words)


def _test_words(statistics: StatisticsFacts) -> Text:
    summary, params = statistics.summary, statistics.params
    design = summary["design"]
    if not statistics.testable:
        return text(Strong("Tests. "), f"{shown(design['reason'])} No p-value is given.")
    how = (
        f"all {count(summary['n_arrangements'])} possible arrangements were tried"
        if summary["exact"]
        else f"B = {count(params['n_permutations'])} random arrangements, seed {params['seed']}"
    )
    strata = f" Labels were never exchanged across the values of {params['strata']}." if params.get("strata") else ""
    return text(
        Strong("Tests. "),
        f"A permutation test with the {design['unit_name']} as its unit ({count(design['n_units'])} units: "
        f"{count(design['n_units_safe'])} safe only, {count(design['n_units_unsafe'])} unsafe only, "
        f"{count(design['n_units_both'])} with both labels). {shown(design['reason'])}{strata} "
        f"{how[0].upper()}{how[1:]}. The family is all {count(summary['n_tested'])} experts whose rate varies: p_max_t "
        "is the studentised max-T p-value (Westfall and Young 1993), which holds for all of them together; q is "
        "Benjamini and Hochberg's (1995), beside it. An expert is called significant at p_max_t ≤ α = "
        f"{summary['alpha']:g}. Where labels are exchanged inside groups or strata, the tested difference is adjusted "
        f"for them. The smallest p-value that could have come out is {p_value(summary['smallest_p'])}. Tokens of one "
        "prompt are not independent, so no test here counts tokens.",
    )


def _interval_words(statistics: StatisticsFacts) -> Text:
    found = statistics.summary["intervals"]
    if found["reason"]:
        return text(Strong("Intervals. "), f"None: {shown(found['reason'])}")
    return text(
        Strong("Intervals. "),
        f"{percent(found['level'], 0)} intervals of risk_diff by a studentised cluster bootstrap over "
        f"{found['unit_name']}s ({count(found['n_resamples'])} resamples, symmetric; Hall 1988). Each is for its own "
        "expert and says nothing about all of them together.",
    )


def _stability_words(statistics: StatisticsFacts) -> Text:
    found = statistics.summary["stability"]
    if found["reason"]:
        return text(Strong("Stability. "), f"Not computed: {shown(found['reason'])}")
    return text(
        Strong("Stability. "),
        f"The choice that is judged: {shown(found['rule'])}. Its selection frequency is the share of "
        f"{count(found['n_resamples'])} bootstrap resamples that choose an expert; in {count(found['n_splits'])} "
        "random split halves, what one half chooses is measured in the other.",
    )


def _baseline_words(statistics: StatisticsFacts) -> Text:
    found = statistics.summary["baselines"]
    if found["reason"]:
        return text(Strong("Baselines. "), f"Not computed: {shown(found['reason'])}")
    return text(
        Strong("Baselines. "),
        f"Ridge regression tells the labels apart from the routing rates, from prompt length alone and from "
        f"the bag of token ids alone, on the same {plural(found['n_used'], 'prompt')} in {count(found['n_folds'])} "
        "folds that keep groups whole; AUC counts held-out pairs of an unsafe and a safe prompt, its interval "
        "resamples units.",
    )
