"""What finished statistics say, part by part; where a part cannot say anything, why."""

import streamlit as st

from dashboard import data, stat_charts, ui, words
from dashboard.client import Api, Json
from dashboard.parts import tested, verify
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

SCHEMES = {
    "prompts": "labels exchanged between prompts",
    "sign_flips": "sign flips of contrast pairs",
    "inside_groups": "labels exchanged inside groups",
    "whole_groups": "labels exchanged between whole groups",
    "mixed": "labels exchanged inside groups, and between whole groups",
    "not_testable": "not testable",
}


def show(api: Api, analysis: Json, stored: Json) -> None:
    """Show every part."""
    summary = stored["summary"]
    _head(stored, summary)
    _design(stored, summary)
    _intervals(summary)
    _stability(summary)
    _baselines(stored, summary)
    _drift(api, stored, summary)
    _left_out(analysis, summary)
    _record(api, stored)


def _head(stored: Json, summary: Json) -> None:
    n = words.count(summary["n_tested"])
    facts = [
        (
            "prompts",
            words.count(summary["n_prompts"]),
            f"{words.count(summary['n_safe'])} safe, {words.count(summary['n_unsafe'])} unsafe",
        )
    ]
    if tested.testable(stored):
        facts += [
            (
                f"family-wise p ≤ {summary['alpha']:g}",
                words.count(summary["n_significant"]),
                f"of {n} experts: {words.count(summary['n_significant_unsafe'])} more on unsafe, "
                f"{words.count(summary['n_significant_safe'])} more on safe",
            ),
            ("q ≤ 0.05", words.count(summary["n_q05"]), f"of {n} experts (Benjamini-Hochberg)"),
            ("smallest attainable p", words.small(summary["smallest_p"]), "for one expert"),
        ]
    ui.facts(facts)


def _design(stored: Json, summary: Json) -> None:
    design = summary["design"]
    if not tested.testable(stored):
        ui.card(
            "Not testable",
            [
                ui.html(design["reason"]),
                "No p-value is given, because none would mean anything: what would have to be exchanged cannot be. "
                "The sizes of the differences stay as they are; measure prompts whose topics hold both labels, or "
                "compute with other strata.",
            ],
            "rp-waits",
        )
        return
    st.subheader("The test")
    unit = design["unit_name"]
    tried = (
        f"all {words.count(summary['n_arrangements'])} arrangements were tried"
        if summary["exact"]
        else f"{words.count(stored['params']['n_permutations'])} random permutations"
    )
    ui.facts(
        [
            ("what is exchanged", SCHEMES[design["scheme"]], ""),
            (
                "units",
                words.plural(design["n_units"], unit),
                f"{words.count(design['n_units_safe'])} safe, {words.count(design['n_units_unsafe'])} unsafe, "
                f"{words.count(design['n_units_both'])} with both labels",
            ),
            ("permutations", tried, f"p ≥ {words.small(summary['smallest_p'])}"),
            ("critical |t|", words.number(summary["critical_t"], 2), "of the whole family (max-T)"),
        ]
    )
    ui.note(
        f"{design['reason']} The tokens of one prompt are not independent, so the {unit} is the unit. Count and tokens "
        "of a unit move together with its label; the largest studentised difference over all experts and layers makes "
        "the family-wise p."
    )


def _intervals(summary: Json) -> None:
    intervals = summary["intervals"]
    st.subheader("Intervals")
    if intervals["reason"]:
        ui.note(intervals["reason"])
        return
    units = words.plural(intervals["n_units"], intervals["unit_name"])
    ui.note(
        f"{tested.interval_words_of(summary)}s of risk_diff for {words.count(intervals['n_given'])} experts, from "
        f"{words.count(intervals['n_resamples'])} resamples of {units} (of the label that has fewer). They "
        "bound one expert at a time, not the whole family; each is in the list of experts and under the pointer on the "
        "heatmap."
    )


def _stability(summary: Json) -> None:
    steady = summary["stability"]
    st.subheader("How steady the choice is")
    if steady["reason"]:
        ui.note(steady["reason"])
        return
    ui.facts(
        [
            (
                "both halves agree",
                words.percent(steady["jaccard"], 0),
                f"of what either chooses; by chance {words.percent(steady['jaccard_by_chance'], 0)}",
            ),
            ("correlation of the halves", words.number(steady["correlation"], 2), "of risk_diff over all experts"),
            ("mean |risk_diff| where chosen", words.number(steady["risk_diff_in_half"]), "of what one half chooses"),
            ("… in the other half", words.number(steady["risk_diff_in_other"]), "what to expect on new prompts"),
        ]
    )
    ui.note(
        f"The choice: {steady['rule']}. {words.count(steady['n_splits'])} splits into halves, "
        f"{words.count(steady['n_resamples'])} resamples."
    )


BASELINE_COLUMNS = (
    Column("what", "Told from"),
    Column("auc", "AUC", "right"),
    Column("interval", "95 % interval", "right"),
)


def _baselines(stored: Json, summary: Json) -> None:
    beside = summary["baselines"]
    st.subheader("What else tells unsafe from safe")
    if beside["reason"]:
        ui.note(beside["reason"])
    if beside["routing"] is None:
        return
    figure = stat_charts.baselines(beside)
    lines(figure, key=f"baselines:{stored['id']}", filename=f"baselines-{stored['id']}", behind=False)
    ui.note(
        "Words alone separate most public sets of safe and unsafe prompts: an AUC of routing says something only "
        "beside the AUC of prompt length and of the bag of token ids, on the same held-out groups. "
        f"Routing less words: {_difference(beside['routing_less_tokens'])}; what routing adds to words: "
        f"{_difference(beside['added_to_tokens'])}. {words.plural(beside['n_used'], 'prompt')}, "
        f"{words.plural(beside['n_folds'], 'fold')}."
    )
    with st.expander("The same as a table"):
        made = [
            Row(
                key,
                None,
                {
                    "what": cell(name),
                    "auc": cell(words.number(beside[key]["auc"]), beside[key]["auc"]),
                    "interval": cell(words.span(beside[key]["low"], beside[key]["high"])),
                },
            )
            for key, name in stat_charts.BASELINES.items()
        ]
        table(BASELINE_COLUMNS, made, key="baselines-table", label="AUC of routing and of the baselines")
    path, plot = f"/statistics/{stored['id']}", f"baselines:{stored['id']}"
    ui.share(path, {}, key="share-baselines", figure=(figure, f"baselines-{stored['id']}"), plot=plot)


def _difference(auc: Json) -> str:
    if auc["auc"] is None:
        return "–"
    return f"{words.signed(auc['auc'])} ({words.interval(auc['low'], auc['high'])})"


DRIFT_COLUMNS = (Column("batch", "Batch", "right"), Column("distance", "Distance", "right"))


def _drift(api: Api, stored: Json, summary: Json) -> None:
    drift = summary["drift"]
    st.subheader("Drift over the batches")
    if drift["reason"]:
        ui.note(drift["reason"])
    if drift["largest"] is None:
        return
    path = f"/statistics/{stored['id']}/drift"
    rows = data.remember(api, path, "succeeded")["items"]
    if rows:
        lines(stat_charts.drift(rows), key=f"drift:{stored['id']}", filename=f"drift-{stored['id']}", behind=False)
    most, p = drift["largest"], drift["p"]
    smallest = words.small(drift["smallest_p"])
    said = "not tested" if p is None else f"p {words.equals(words.p_value(p))} (smallest {smallest})"
    ui.note(
        "How far every batch lies from the mean of all batches: the root mean square difference of risk_diff over all "
        f"experts. A trend from the first to the last batch, in any expert: {said}; the largest is layer "
        f"{most['layer']}, expert {most['expert']}, with {words.signed(most['slope'])} from first to last. Correlation "
        f"of the first with the second half: {words.number(drift['correlation'], 2)}."
    )
    if rows:
        with st.expander("The same as a table"):
            made = [
                Row(
                    str(r["batch_idx"]),
                    None,
                    {
                        "batch": cell(r["batch_idx"], r["batch_idx"]),
                        "distance": cell(words.number(r["distance"], 4), r["distance"]),
                    },
                )
                for r in rows
            ]
            table(DRIFT_COLUMNS, made, key="drift-table", label="Distance of every batch from the mean", height=320)
        files = {form: f"drift-{stored['id']}.{form}" for form in ("csv", "parquet")}
        ui.share(path, {}, key="share-drift", save=files, plot=f"drift:{stored['id']}")


def _left_out(analysis: Json, summary: Json) -> None:
    st.subheader("Prompts left out")
    plan = analysis["plan"]["n_left_out"]
    parts = [
        (plan, "in no batch of the plan"),
        (
            summary["n_left_out_non_finite"],
            f"in {words.batches(summary['n_batches_non_finite'])} with values that are not finite",
        ),
        (summary["n_left_out_without_tokens"], "without a counted token"),
    ]
    said = [f"{words.plural(n, 'prompt')} {why}" for n, why in parts if n]
    ui.note(f"{'; '.join(said)}." if said else "None: every prompt of the set is counted.")


def _record(api: Api, stored: Json) -> None:
    st.subheader("Record")
    params = stored["params"]
    ui.note(
        f"{stored['id']} · seed {params['seed']} · strata {params['strata'] or 'none'} · took "
        f"{words.duration(words.between(stored['started_at'], stored['finished_at']))} · SHA-256 "
        f"{words.short_hash(stored['sha256'])} of request, input and findings"
    )
    with st.container(horizontal=True):
        ui.share(f"/statistics/{stored['id']}", {}, key="share-statistics", label="These figures: link, API")
        files = {form: f"experts-{stored['id']}.{form}" for form in ("csv", "parquet")}
        ui.share(
            f"/statistics/{stored['id']}/experts",
            {"sort": "layer"},
            key="share-tests",
            save=files,
            label="Every expert: link, API, download",
        )
    verify.show(api, f"/statistics/{stored['id']}")
