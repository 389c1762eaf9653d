"""What a study found, on screen: the answers first, then a strip of dots per figure with the table behind it."""

from html import escape

import streamlit as st

from dashboard import address, study_charts, ui, words
from dashboard.client import Json
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

ARMS = {"preserved": "batches kept", "shuffled": "reshuffled"}
QUESTIONS = {
    "reproducibility": "Does keeping batches make results more reproducible?",
    "scatter": "Does any single figure scatter less?",
    "level": "Do the arms come out differently?",
    "causal": "Does the expert set matter at all?",
    "held_out": "On prompts that nothing had seen?",
}
TONES = {
    "shown": ("succeeded", "shown"),
    "not_shown": ("planned", "not shown"),
    "untested": ("cancelled", "not tested"),
}
_OPEN = "study-open"


def show(study: Json) -> None:
    """Show the answers and every figure of a finished study."""
    result = study["result"]
    _opened(result)
    _answers(result)
    _maps(study["id"], result)
    refs = {(run["arm"], run["seed"]): place for place, run in enumerate(result["runs"])}
    for measure in result["measures"]:
        _measure(study["id"], measure, refs, result)
    _causal(result)
    _fairness(study)


def _opened(result: Json) -> None:
    """Go where the dot leads that was just clicked."""
    wanted = st.session_state.pop(_OPEN, None)
    if wanted is None:
        return
    kind, place = wanted
    if kind == "run":
        address.go("training", id=result["runs"][place]["ids"]["training"])
    else:
        pairs = [(arm, pair) for arm in ARMS for pair in result["maps"]["arms"][arm]["pairs"]]
        arm, pair = pairs[place]
        own = {run["seed"]: run["ids"]["analysis"] for run in result["runs"] if run["arm"] == arm}
        address.go("compare", a=own[pair["seeds"][0]], b=own[pair["seeds"][1]])


def _open(kind: str, place: int) -> None:
    st.session_state[_OPEN] = (kind, place)


def _answers(result: Json) -> None:
    parts = []
    for one in result["verdicts"]:
        status, word = TONES[one["tone"]]
        chip = ui.chip(status, "in-sample" if one["key"] == "held_out" and one["tone"] == "not_shown" else word)
        parts.append(f"<strong>{escape(QUESTIONS[one['key']])}</strong> {chip}<br>{escape(one['text'])}")
    ui.card("What came out", parts)


def _maps(study_id: str, result: Json) -> None:
    maps, test = result["maps"], result["maps"]["test"]
    st.subheader("Reproducibility: how far apart do the trained models lie?")
    ui.facts(
        [
            *(
                (
                    ARMS[arm],
                    words.number(own["mean_distance"], 5),
                    f"mean of {words.plural(len(own['pairs']), 'pair')} of seeds",
                )
                for arm, own in maps["arms"].items()
            ),
            ("reshuffled / kept", words.times(maps["ratio"]), "above 1: kept lies closer"),
            (
                "p",
                words.p_value(test["p"]),
                f"at best {words.p_value(test['smallest_p'])}" if test["p"] else test["why"],
            ),
            ("correlation", *_correlations(maps, "mean_correlation")),
            ("of the changes", *_correlations(maps, "mean_of_changes")),
        ]
    )
    lines(
        study_charts.of_maps(maps),
        key=f"study-maps:{study_id}",
        filename=f"maps-{study_id}",
        on_point=lambda place: _open("pair", place),
    )
    ui.note(
        "A dot is a pair of seeds; the line is their mean. Distance is the root mean square of the difference of "
        f"risk_diff over {words.count(maps['n_experts'])} experts. The test moves each arm to its own median first, so "
        "that a shift of all runs counts for nothing, then deals the runs to the arms in "
        f"{'all' if test['exact'] else 'random'} {words.count(test['n_arrangements'])} ways."
    )
    with st.expander("Every pair"):
        rows = [
            Row(
                f"{arm}-{pair['seeds'][0]}-{pair['seeds'][1]}",
                None,
                {
                    "arm": cell(ARMS[arm]),
                    "seeds": cell(f"{pair['seeds'][0]} and {pair['seeds'][1]}", pair["seeds"][0]),
                    "distance": cell(words.number(pair["distance"], 6), pair["distance"]),
                    "correlation": cell(words.number(pair["correlation"], 4), pair["correlation"]),
                    "changes": cell(words.number(pair["of_changes"], 4), pair["of_changes"]),
                },
            )
            for arm in ARMS
            for pair in maps["arms"][arm]["pairs"]
        ]
        columns = (
            Column("arm", "Arm"),
            Column("seeds", "Seeds"),
            Column("distance", "Distance", "right"),
            Column("correlation", "Correlation", "right"),
            Column("changes", "of the changes", "right"),
        )
        table(columns, rows, key=f"pairs:{study_id}", label="Pairs of seeds")


def _correlations(maps: Json, name: str) -> tuple[str, str]:
    kept, mixed = (words.number(maps["arms"][arm][name], 3) for arm in ARMS)
    return kept, f"kept, {mixed} reshuffled"


def _measure(study_id: str, measure: Json, refs: dict[tuple[str, int], int], result: Json) -> None:
    st.subheader(measure["title"])
    level, spread = measure["level"], measure["spread"]
    ui.facts(
        [
            *(
                (
                    ARMS[arm],
                    study_charts.value(measure, own["mean"]),
                    f"SD {_sd(measure, own)}",
                )
                for arm, own in measure["arms"].items()
            ),
            (
                "kept − reshuffled",
                study_charts.value(measure, level["mean"], sign=True),
                study_charts.span(measure, level["low"], level["high"], sign=True)
                if level["sd"]
                else "the same in every pair",
            ),
            ("p, level", words.p_value(level["p"]), _best(level)),
            ("scatter, reshuffled / kept", words.times(spread["ratio"]), ""),
            ("p, scatter", words.p_value(spread["p"]), _best(spread)),
        ]
    )
    lines(
        study_charts.of_measure(measure, refs),
        key=f"study:{measure['key']}:{study_id}",
        filename=f"{measure['key']}-{study_id}",
        on_point=lambda place: _open("run", place),
    )
    ui.note(f"{measure['title']}: {measure['what']}.")
    with st.expander(f"Every run: {measure['title'].lower()}"):
        rows = []
        for run in result["runs"]:
            if run["seed"] not in measure["seeds"]:
                continue
            one = measure["arms"][run["arm"]]["values"][measure["seeds"].index(run["seed"])]
            id_ = run["ids"]["training"]
            rows.append(
                Row(
                    id_,
                    address.href("training", id=id_),
                    {
                        "arm": cell(ARMS[run["arm"]]),
                        "seed": cell(run["seed"], run["seed"]),
                        "value": cell(study_charts.value(measure, one), one),
                        "training": cell(id_),
                    },
                )
            )
        columns = (
            Column("arm", "Arm"),
            Column("seed", "Seed", "right"),
            Column("value", measure["title"], "right"),
            Column("training", "Training", kind="code", minor=True),
        )
        opened = table(columns, rows, key=f"runs:{measure['key']}:{study_id}", label=f"Runs, {measure['title']}")
        if opened:
            address.go("training", id=opened)


def _sd(measure: Json, own: Json) -> str:
    said = study_charts.value(measure, own["sd"], sign=True).lstrip("+") if own["sd"] is not None else "–"
    return f"{said} (n = {own['n']})"


def _best(tested: Json) -> str:
    if tested["p"] is None:
        return str(tested["why"])
    return f"adjusted {words.p_value(tested['p_holm'])}, at best {words.p_value(tested['smallest_p'])}"


def _causal(result: Json) -> None:
    st.subheader("The causal check of the expert set")
    found = next((one for one in result["verdicts"] if one["key"] == "causal"), None)
    if found:
        ui.note(found["text"])
    address.link(
        "Open the causal check: every random set, every answer",
        "evaluation",
        icon=":material/arrow_forward:",
        id=result["causal"]["evaluation_id"],
    )


def _fairness(study: Json) -> None:
    """Say what differs between runs, and what so few runs can show."""
    varies, n = study["result"]["varies"], len(study["params"]["seeds"])
    targets = (
        "the same frozen targets (one digest in all runs)"
        if varies["same_targets"]
        else "targets whose digests are NOT the same: the arms did not learn the same answers"
    )
    checked = f"{words.count(varies['verified']['preserved'])} of {words.count(varies['steps']['preserved'])}"
    ui.card(
        "What varies with the seed, and what so few seeds can show",
        [
            f"All runs start from the same weights and train the same samples once an epoch, with {targets}. Where "
            "batches are kept, the seed chooses the order of the batches; where they are not, it chooses which samples "
            "come together, and in which order. It also draws what a model draws by itself: dropout, where there is "
            "some, and the first values of adapters.",
            f"{checked} steps of the arm that keeps batches were proven to hold their analysis batch; the other arm "
            "has no batches to hold.",
            f"A run is the unit: {words.plural(n, 'seed')} are {n} runs per arm, whatever the number of prompts. Means "
            "and deviations stand with intervals that take runs to scatter normally. A difference that is not shown is "
            "not shown to be none.",
        ],
    )
