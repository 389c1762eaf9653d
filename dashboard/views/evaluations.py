"""Evaluations: does an expert set matter for behaviour? The list and the form, or one set among its random ones."""

from html import escape

import streamlit as st

from dashboard import address, effect_chart, ui, words
from dashboard.client import Api, Json
from dashboard.parts import evaluation_answers, evaluation_form, keeping, run_lists, runs, verify
from dashboard.plot import lines

TITLES = {
    "refusal_unsafe": "Unsafe prompts refused",
    "refusal_safe": "Safe prompts refused",
    "perplexity": "Perplexity of given answers",
    "choice_accuracy": "Multiple choice, right",
}
WHAT = {
    "deactivate": "no token reaches the experts of",
    "activate": "every token reaches the experts of",
    "trained": "a trained model against its base",
    "none": "the model as it is",
}


def main() -> None:
    """Draw the list or the evaluation that the address names."""
    api = ui.api()
    evaluation_id = address.text("id")
    if evaluation_id:
        _one(api, api.get(f"/evaluations/{evaluation_id}"))
    else:
        _list(api)


def _list(api: Api) -> None:
    ui.page_title("Evaluations")
    ui.heading(
        "Evaluations",
        "Take the experts of a set away, or force them on, and see what the model does, beside random sets.",
    )
    keeping.offer_undo(api, "evaluations")
    wanted, model = address.text("set"), address.text("model")
    found, asked = run_lists.evaluations(api)
    if not (found or asked):
        ui.card(
            "No evaluation yet",
            [
                "A routing difference is not yet a cause. This is the check: an intervention, on prompts that did not "
                "choose the experts, beside random sets."
            ],
        )
        if st.button("Choose experts in an analysis", type="primary"):
            address.go("analysis")
    with st.expander(
        "Start an evaluation", expanded=bool(wanted or model) or not (found or asked), icon=":material/add:"
    ):
        evaluation_form.show(api, wanted, model)


def _one(api: Api, evaluation: Json) -> None:
    ui.page_title(evaluation["name"])
    what = WHAT[evaluation["intervention"]]
    name = f" {evaluation['expert_set_name']}" if evaluation["expert_set_name"] else ""
    ui.heading(
        evaluation["name"],
        f"{evaluation['intervention']}: {what}{name} · {evaluation['model']} · {evaluation['id']}",
        evaluation["status"],
    )
    runs.follow("evaluations", evaluation, "answers")
    _honesty(evaluation)
    _links(evaluation)
    _facts(evaluation)
    for measure in evaluation["measures"]:
        _measure(evaluation, measure)
    if evaluation["measures"]:
        _what_not(evaluation)
        arms = api.get(f"/evaluations/{evaluation['id']}/arms")["items"]
        evaluation_answers.show(api, evaluation, arms)
        verify.show(api, f"/evaluations/{evaluation['id']}")
    elif evaluation["status"] in words.UNFINISHED:
        ui.note("The first figures appear with the baseline.")
    _record(api, evaluation)


def _honesty(evaluation: Json) -> None:
    """Say first of all whether the prompts are new."""
    overlap = evaluation["overlap"]
    if overlap["in_sample"]:
        ui.card("In-sample", [escape(w) for w in evaluation["warnings"][:1]], "rp-wrong")
    elif overlap["used_by"]:
        ui.note(
            f"None of the {words.plural(overlap['n_prompts'], 'prompt')}, nor any of their "
            f"{words.plural(overlap['n_groups'], 'group')}, was used to choose the experts or to train."
        )
    for warning in evaluation["warnings"][1 if overlap["in_sample"] else 0 :]:
        ui.note(f"▲ {warning}")


def _links(evaluation: Json) -> None:
    with st.container(horizontal=True):
        if evaluation["analysis_id"]:
            address.link(
                f"Expert set: {ui.plain(evaluation['expert_set_name'])}",
                "analysis",
                icon=":material/arrow_upward:",
                id=evaluation["analysis_id"],
                view="sets",
            )
        ui.share(
            f"/evaluations/{evaluation['id']}/arms",
            {},
            key="share-arms",
            save={form: f"arms-{evaluation['id']}.{form}" for form in ("csv", "parquet")},
        )


def _facts(evaluation: Json) -> None:
    smallest = {c["family"]: c["smallest_p"] for m in evaluation["measures"][:1] for c in m["controls"]}
    best = [words.number(p, 3) for p in smallest.values()]
    ui.facts(
        [
            (
                "prompts",
                words.count(evaluation["n_safe"] + evaluation["n_unsafe"]),
                f"{evaluation['n_safe']} safe, {evaluation['n_unsafe']} unsafe",
            ),
            ("arms", words.count(evaluation["n_finished"]), f"of {words.count(evaluation['n_arms'])}"),
            *([("smallest p possible", best[0], "so many random sets allow no smaller one")] if best else []),
            ("judge", evaluation["params"]["judge"]["kind"], ", ".join(evaluation["judges"])[:60]),
            *(
                [("overruled", words.count(evaluation["n_overruled"]), "verdicts, by people")]
                if evaluation["n_overruled"]
                else []
            ),
            ("took", words.duration(words.between(evaluation["started_at"], evaluation["finished_at"])), ""),
        ]
    )


def _title(evaluation: Json, key: str) -> str:
    harm = evaluation["label_meaning"]["kind"] == "harmless_harmful"
    return TITLES[key] + (" (over-refusal)" if key == "refusal_safe" and harm else "")


def _measure(evaluation: Json, measure: Json) -> None:
    title = _title(evaluation, measure["key"])
    st.subheader(title)
    pairs = [
        ("baseline", effect_chart.value(measure, measure["baseline"]), effect_chart.span(measure, measure["baseline"]))
    ]
    if measure["real"]:
        name = "after training" if evaluation["intervention"] == "trained" else "with the intervention"
        change = measure["difference"]["value"] if measure["difference"] else None
        pairs += [
            (name, effect_chart.value(measure, measure["real"]), effect_chart.span(measure, measure["real"])),
            ("change", effect_chart.moved(measure, change), effect_chart.span_of_change(measure)),
        ]
    ui.facts(pairs)
    if measure["before_overruling"]:
        before = measure["before_overruling"]
        ui.note(
            f"By the judge alone: {words.percent(before['baseline'], 0)} at the baseline"
            + (f", {words.percent(before['real'], 0)} with the intervention." if measure["real"] else ".")
        )
    _left_out(measure)
    if said := " ".join(filter(None, (effect_chart.verdict(measure, c) for c in measure["controls"]))):
        ui.note(said)
    if measure["controls"]:
        figure, key = effect_chart.strip(measure, title), f"strip:{measure['key']}:{evaluation['id']}"
        name = f"{measure['key']}-{evaluation['id']}"
        lines(
            figure,
            key=key,
            filename=name,
            selected=address.index("arm"),
            on_point=lambda arm: address.put(arm=arm),
        )
        ui.share(f"/evaluations/{evaluation['id']}", {}, key=f"share-{measure['key']}", figure=(figure, name), plot=key)


def _left_out(measure: Json) -> None:
    counts = {k: v for k, v in measure["n_left_out"].items() if v}
    if counts:
        said = ", ".join(f"{n} of the {'baseline' if k == 'baseline' else 'set'}" for k, n in counts.items())
        ui.note(f"Answers without a clear verdict are in no rate: {said}.")


def _what_not(evaluation: Json) -> None:
    ui.note(
        "Points are sets of experts; the change of each is paired with the baseline over the same prompts. An answer "
        "that is not a refusal need not be harmful, or even make sense: read some below, and look at the perplexity."
    )
    if evaluation["intervention"] in evaluation_form.STEERS:
        ui.note(
            "A set that does more than random ones matters for these answers of this model. It need not be where "
            "refusal is decided: what it carries may be needed for writing any answer of this kind."
        )


def _record(api: Api, evaluation: Json) -> None:
    with st.expander("Record: overruled verdicts, settings, name"):
        changed = api.get(f"/evaluations/{evaluation['id']}/overrules", limit=200)["items"]
        for one in changed:
            ui.note(
                f"{one['at'][:19].replace('T', ' ')} · {one['by']}: answer {one['n']} from {one['before']} to "
                f"{one['verdict']}: {one['reason']}"
            )
        if not changed:
            ui.note("No verdict was overruled.")
        st.subheader("Settings and environment")
        shown = {name: evaluation[name] for name in ("params", "overlap", "environment", "judges")}
        st.json(shown, expanded=1)
        keeping.show(api, "evaluations", evaluation)


ui.show(main)
