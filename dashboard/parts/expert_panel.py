"""One expert: its figures, what the statistics say of it, and its risk_diff in every batch."""

from collections.abc import Sequence

import streamlit as st

from dashboard import address, cells, data, risk_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import tested
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("batch", "Batch"),
    Column("risk", "risk_diff", "right"),
    Column("floor", "Noise floor of the batch", "right"),
)


def chosen(sites: Sequence[Json]) -> tuple[int, int] | None:
    """Return (layer, expert) from the address, if the model has such an expert."""
    layer, expert = address.index("layer"), address.index("expert")
    if layer is None or expert is None:
        return None
    held = any(s["layer"] == layer and expert < s["n_experts"] for s in sites)
    return (layer, expert) if held else None


def show(api: Api, analysis: Json, which: tuple[int, int], scope: str, pool: str, stored: Json | None = None) -> None:
    """Show the panel below the heatmap. stored: the finished statistics that the page shows."""
    layer, expert = which
    path = f"/analyses/{analysis['id']}/experts/{layer}/{expert}"
    try:
        found = data.remember(api, path, data.version(analysis), scope=scope, pool=pool)
    except ApiRefused as error:
        ui.refused(error)
        return
    st.subheader(words.expert(layer, expert))
    ui.facts(
        [
            ("risk_diff", words.signed(found["risk_diff"], 4), pool),
            (
                "rate on unsafe",
                words.percent(found["rate_unsafe"]),
                _of_tokens(found["count_unsafe"], found["tokens_unsafe"], pool),
            ),
            (
                "rate on safe",
                words.percent(found["rate_safe"]),
                _of_tokens(found["count_safe"], found["tokens_safe"], pool),
            ),
        ]
    )
    if stored:
        _tests(api, analysis, which, stored)
    if found["batches"]:
        _batches(analysis, found, scope, pool)


def _of_tokens(count: int, tokens: int, pool: str) -> str:
    """Say on how many tokens a rate stands; the mean over prompts is not their quotient."""
    how = "mean over prompts; " if pool == "mean" else ""
    return f"{how}{words.count(count)} of {words.count(tokens)} tokens"


def _tests(api: Api, analysis: Json, which: tuple[int, int], stored: Json) -> None:
    """Show interval, p, q and how often the expert is chosen, or why there is no test."""
    figures, summary = data.tests(api, stored["id"]), stored["summary"]
    row, expert = cells.of_experts([which], analysis["sites"])[0]
    of = {name: tested.figure(figures, name, row, expert) for name in data.TESTS}
    facts = [(tested.interval_words(stored), words.interval(of["ci_low"], of["ci_high"], 4), "of risk_diff")]
    if tested.testable(stored):
        facts += [
            ("p, family-wise", words.p_value(of["p_max_t"]), f"max-T over {words.count(summary['n_tested'])} experts"),
            ("q", words.p_value(of["q"]), "Benjamini-Hochberg"),
            ("p, alone", words.p_value(of["p"]), "this expert only"),
        ]
    if of["frequency"] is not None:
        facts.append(("chosen in", words.percent(of["frequency"], 0), "of resamples"))
    facts.append(("load", words.times(of["load"]), "an even share"))
    ui.facts(facts)
    steady = summary["stability"]
    if steady["risk_diff_in_half"] is not None:
        ui.note(
            f"Split in halves {words.count(steady['n_splits'])} times: what one half chooses has a mean |risk_diff| of "
            f"{words.number(steady['risk_diff_in_half'])} there and {words.number(steady['risk_diff_in_other'])} in "
            "the other half. The second figure is the one to expect on new prompts."
        )
    if not tested.testable(stored):
        ui.note(summary["design"]["reason"])


def _batches(analysis: Json, found: Json, scope: str, pool: str) -> None:
    """Show the expert in every batch, as points and as a table."""
    layer, expert = found["layer"], found["expert"]

    def open_batch(batch_idx: int) -> None:
        st.session_state["open_batch"] = batch_idx

    figure, name = risk_charts.expert_over_batches(found), f"expert-{layer}-{expert}-{analysis['id']}"
    key = f"expert:{analysis['id']}:{layer}:{expert}:{scope}:{pool}"
    lines(figure, key=key, filename=name, on_point=open_batch, behind=False)
    ui.share(
        f"/analyses/{analysis['id']}/experts/{layer}/{expert}",
        {"scope": scope, "pool": pool},
        key="share-expert",
        figure=(figure, name),
        plot=key,
    )
    batch_idx = st.session_state.pop("open_batch", None)
    if batch_idx is not None:
        address.go("batch", analysis=analysis["id"], batch=batch_idx, layer=layer, expert=expert)
    ui.note(
        "A point is one batch; click it to open the batch. The grey box is descriptive: in 95 % of shuffles of the "
        "labels inside the batch no expert at all goes beyond it, so points inside it are what such a batch shows by "
        "chance."
    )
    with st.expander("The same as a table"):
        made = [
            Row(
                str(b["batch_idx"]),
                address.href("batch", analysis=analysis["id"], batch=b["batch_idx"], layer=layer, expert=expert),
                {
                    "batch": cell(f"Batch {b['batch_idx']}", b["batch_idx"]),
                    "risk": cell(words.signed(b["risk_diff"], 4), b["risk_diff"]),
                    "floor": cell(words.number(b["noise_floor"], 4), b["noise_floor"]),
                },
            )
            for b in found["batches"]
        ]
        opened = table(COLUMNS, made, key="expert-batches", label="One expert in every batch", height=320)
    if opened:
        address.go("batch", analysis=analysis["id"], batch=opened, layer=layer, expert=expert)
