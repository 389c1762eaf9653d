"""The maps of one batch: its own beside that of all batches, and their difference, on one scale."""

from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from dashboard import address, cells, charts, data, fields, risk_charts, ui, words
from dashboard.client import Api, Json
from dashboard.heatmap import heatmap
from dashboard.parts import colour_range, tested

BESIDE = {"both": "all batches and difference", "aggregate": "all batches", "difference": "difference only"}


@dataclass(frozen=True, slots=True)
class Maps:
    """What the maps of one batch are drawn from. own, whole: risk-diff of the batch and of all batches."""

    api: Api
    analysis: Json
    batch_idx: int
    scope: str
    pool: str
    own: Json
    whole: Json
    sites: list[Json]
    reach: colour_range.Range

    @property
    def chosen(self) -> tuple[int, int] | None:
        """(row, expert) of the address, if the model has such an expert."""
        return cells.chosen(address.index("layer"), address.index("expert"), self.sites)

    def draw(self, name: str, figure: charts.Heat) -> None:
        """Show one map; its key stays the same for every batch, so that zoom and selection stay."""
        key, of = f"{name}:{self.analysis['id']}", "" if name == "aggregate" else f"-batch-{self.batch_idx}"
        filename = f"risk-diff-{name}-{self.analysis['id']}{of}"
        pick = address.put_cell(self.sites)
        heatmap(figure, key=key, filename=filename, selected=self.chosen, on_cell=pick)


def show(api: Api, analysis: Json, batch: Json, scope: str, pool: str) -> None:
    """Show the maps, or why there are none."""
    if batch["status"] == "planned":
        ui.card(
            "Not measured yet",
            ["The samples below are planned; the heatmap appears when the worker has measured this batch."],
        )
        return
    own = data.risk(api, analysis, scope, pool, batch["batch_idx"])
    if own["risk_diff"] is None:
        why = escape(own["reason"] or "There is no value in this scope.")
        ui.card(
            "This batch has no risk_diff",
            [why, "It is left out of the sum over all batches; it is never counted as zero."],
            "rp-wrong",
        )
        return
    whole = data.risk(api, analysis, scope, pool)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        beside = ui.choice("Beside the batch", "beside", BESIDE)
        reach = colour_range.choose(colour_range.ends(api, analysis, scope, whole), "batches")
    sites = own["sites"] or analysis["sites"]
    maps = Maps(api, analysis, batch["batch_idx"], scope, pool, own, whole, sites, reach)
    stacked = len(sites) <= 12 and own["n_experts"] > 40  # few wide rows: below each other they stay readable
    places: list[Any] = [st.container() for _ in range(3)] if stacked else [*st.columns(2, gap="medium")]
    with places[0]:
        marks = _own(maps)
    if beside == "difference":
        with places[1]:
            _difference(maps)
    else:
        with places[1]:
            _aggregate(maps)
        if beside == "both":
            places = places if stacked else [None, None, *st.columns(2, gap="medium")]
            with places[2]:
                _difference(maps)
    with places[3] if len(places) > 3 else st.container():
        _legend(maps, marks)


def _own(maps: Maps) -> charts.Cells:
    """Show the batch's own map; return the cells with a dot: those above the batch's noise floor."""
    own = maps.own
    marks = cells.above(own["risk_diff"], own["noise_floor"])
    stored = tested.finished(maps.api, maps.analysis, maps.scope, maps.pool)
    tests = data.tests(maps.api, stored["id"]) if stored else {}
    figure = risk_charts.risk_heat(
        own,
        maps.sites,
        maps.reach.vmax,
        f"Batch {maps.batch_idx}",
        marks=marks,
        tests={name: tests[name] for name in ("ci_low", "ci_high")} if tests else None,
        interval=f"all batches, {tested.interval_words(stored)}" if stored else "",
    )
    assert figure is not None
    _title(maps, f"This batch, {words.SCOPES[maps.scope]}, pool {maps.pool}", "own", maps.batch_idx)
    maps.draw("own", figure)
    return marks


def _aggregate(maps: Maps) -> None:
    figure = risk_charts.risk_heat(maps.whole, maps.sites, maps.reach.vmax, "All batches")
    if figure is None:
        ui.note("All batches together have no value yet.")
        return
    _title(maps, f"All {words.batches(maps.whole['n_batches'])}", "aggregate", None)
    maps.draw("aggregate", figure)


def _difference(maps: Maps) -> None:
    if maps.whole["risk_diff"] is None:
        ui.note("All batches together have no value yet.")
        return
    a, b = maps.own["risk_diff"], maps.whole["risk_diff"]
    stretched, what = _own_scale(), f"Batch {maps.batch_idx} minus all batches"
    vmax = charts.round_up(charts.largest(a - b)) if stretched else maps.reach.vmax
    figure = risk_charts.plain_heat(a - b, maps.sites, vmax, what, unit="difference")
    said = f"This batch − all batches{f', on a scale of its own: ±{words.short_float(vmax)}' if stretched else ''}"
    _title(maps, said, "difference", maps.batch_idx, figure)
    maps.draw("difference", figure)
    fields.switch(
        "Difference on a scale of its own", "own_scale", help="Its colours then mean other values than beside."
    )


def _own_scale() -> bool:
    return st.query_params.get("own_scale") == "yes"


def _title(maps: Maps, text: str, name: str, batch_idx: int | None, figure: charts.Heat | None = None) -> None:
    """Say what a map shows, and offer to take it along."""
    path = f"/analyses/{maps.analysis['id']}/risk-diff"
    params = {"scope": maps.scope, "pool": maps.pool, "batch_idx": batch_idx}
    file = f"risk-diff-{name}-{maps.analysis['id']}" + ("" if batch_idx is None else f"-batch-{batch_idx}")
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        ui.note(text)
        ui.share(
            path,
            params,
            key=f"share-{name}",
            save=None if figure else {form: f"{file}.{form}" for form in ("csv", "parquet")},
            figure=(figure, file) if figure else None,
            plot=f"{name}:{maps.analysis['id']}",
        )


def _legend(maps: Maps, marks: charts.Cells) -> None:
    ui.colour_key("above the batch's noise floor" if marks else "")
    floor = "" if marks else "No cell is above the batch's noise floor. "
    which = "The first two maps" if _own_scale() else "The maps"
    beyond = maps.reach.beyond(maps.own["risk_diff"], maps.whole["risk_diff"])
    ui.note(
        f"{floor}{which} share one scale with every other batch, ±{words.short_float(maps.reach.vmax)}. {beyond}"
        f"{words.NOT_A_CAUSE}"
    )
    if maps.chosen:
        _cell_words(maps, maps.chosen)
    else:
        ui.note("Click a cell, or walk with the arrow keys and press Enter, to see one expert in this batch.")


def _cell_words(maps: Maps, chosen: tuple[int, int]) -> None:
    (row, expert), floor, whole = chosen, maps.own["noise_floor_cells"], maps.whole["risk_diff"]
    layer = maps.sites[row]["layer"]
    ui.facts(
        [
            ("cell", words.expert(layer, expert), ""),
            ("in this batch", words.signed(float(maps.own["risk_diff"][chosen]), 4), ""),
            (
                "noise floor of the cell",
                f"±{words.number(float(floor[chosen]), 4)}" if floor is not None else "–",
                "",
            ),
            ("all batches", words.signed(float(whole[chosen]), 4) if whole is not None else "–", ""),
        ]
    )
    address.link(
        f"{words.expert(layer, expert)} in every batch",
        "analysis",
        icon=":material/arrow_forward:",
        id=maps.analysis["id"],
        layer=layer,
        expert=expert,
    )
