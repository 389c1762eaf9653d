"""The room of experts: ranked, filtered and paged by the API; a row selects its cell on the heatmap."""

from collections.abc import Sequence

import streamlit as st

from dashboard import address, fields, ui, words
from dashboard.client import Api, Json
from dashboard.parts import expert_tables, pager, tested
from dashboard.table import Column, Row, cell

PER_PAGE = 100
ORDERS = ("abs", "-risk_diff", "risk_diff", "p_max_t", "p", "q", "frequency", "load", "-load", "layer")
SIDES = {"both": "either way", "unsafe": "more on unsafe", "safe": "more on safe"}
Q_LIMITS = {"": "any", "0.01": "0.01", "0.05": "0.05", "0.1": "0.10", "0.2": "0.20"}
AGAIN = ("after",)


def show(api: Api, analysis: Json) -> None:
    """Show the filters, the page of experts that the address names, and the ways to take it along."""
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    stored = tested.finished(api, analysis, scope, pool)
    params = _filters(analysis, stored) | {"sort": _order()}
    path = f"/statistics/{stored['id']}/experts" if stored else f"/analyses/{analysis['id']}/experts"
    params = params if stored else {"scope": scope, "pool": pool} | params
    page = pager.fetch(api, path, **params, limit=PER_PAGE)
    if page["items"]:
        _table(stored, page["items"], str(params["sort"]))
    else:
        ui.note("No expert is left: loosen the filter." if analysis["n_measured"] else "No batch is measured yet.")
    name = f"{path}:{sorted((k, str(v)) for k, v in params.items())}"
    pager.show(page, name=name, noun=("expert", "experts"))
    given = {k: v for k, v in params.items() if v is not None}
    ui.share(path, given, key="share-experts", save={f: f"experts-{analysis['id']}.{f}" for f in ("csv", "parquet")})
    _explain(analysis, stored)


def _order() -> str:
    asked = st.query_params.get("sort")
    return asked if asked in ORDERS else ORDERS[0]


def _filters(analysis: Json, stored: Json | None) -> Json:
    layers = {"": "all"} | {str(layer): str(layer) for layer in sorted({s["layer"] for s in analysis["sites"]})}
    can_test = stored is not None and tested.testable(stored)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        side = ui.choice("Direction", "side", SIDES, resets=AGAIN)
        layer = fields.select("Layer", "in_layer", layers, resets=AGAIN, width=110)
        q = fields.select("q at most", "max_q", Q_LIMITS, resets=AGAIN, width=110) if can_test else ""
        only = can_test and fields.switch(
            "Significant only", "significant", resets=AGAIN, help="Family-wise p of at most the statistics' alpha."
        )
    return {
        "direction": side,
        "layer": layer or None,
        "max_q": q or None,
        "max_p_max_t": stored["summary"]["alpha"] if stored and only else None,
    }


def _columns(stored: Json | None, largest: float) -> tuple[Column, ...]:
    down, up = "descending", "ascending"
    interval = tested.interval_words(stored) if stored else "Interval"
    drawn = "whisker" if stored else "bar"
    columns = [
        Column("expert", "Expert", kind="short", sort=(("layer", up),)),
        Column("risk", "risk_diff", "right", drawn, max=largest, sort=_RISK_ORDERS),
    ]
    if stored:
        columns.append(Column("interval", interval, "right", minor=True))
        if tested.testable(stored):
            columns += [
                Column("p_max_t", "p (max-T)", "right", sort=(("p_max_t", up),)),
                Column("q", "q", "right", sort=(("q", up),), minor=True),
                Column("p", "p alone", "right", sort=(("p", up),), minor=True),
            ]
        columns.append(Column("frequency", "Chosen in", "right", sort=(("frequency", down),), minor=True))
        columns.append(Column("load", "Load", "right", sort=(("-load", down), ("load", up)), minor=True))
    columns += [Column("unsafe", "Rate unsafe", "right", minor=True), Column("safe", "Rate safe", "right", minor=True)]
    return tuple(columns)


NOTHING_KNOWN = "Too few prompts reached this expert: its interval is everything that is possible."
_RISK_ORDERS = (("abs", "by size"), ("-risk_diff", "descending"), ("risk_diff", "ascending"))


def _row(r: Json) -> Row:
    ends = (r["ci_low"], r["ci_high"])
    tokens = f"{words.count(r['count_unsafe'])} of {words.count(r['tokens_unsafe'])} tokens"
    safe_tokens = f"{words.count(r['count_safe'])} of {words.count(r['tokens_safe'])} tokens"
    return expert_tables.expert_row(
        r["layer"],
        r["expert"],
        {
            "risk": cell(words.signed(r["risk_diff"], 4), r["risk_diff"], ends=ends),
            "interval": cell(words.interval(*ends), hint=NOTHING_KNOWN if ends == (-1.0, 1.0) else None),
            "p_max_t": cell(words.p_value(r["p_max_t"])),
            "q": cell(words.p_value(r["q"])),
            "p": cell(words.p_value(r["p"])),
            "frequency": cell(words.percent(r["frequency"], 0)),
            "load": cell(words.times(r["load"])),
            "unsafe": cell(words.percent(r["rate_unsafe"]), hint=tokens),
            "safe": cell(words.percent(r["rate_safe"]), hint=safe_tokens),
        },
        hint=r["site"],
    )


def reach(rows: Sequence[Json]) -> float:
    """Return where the bars end: the largest |risk_diff| or end of an interval, 1 where there is none.

    An expert that hardly a token reached has the interval -1 to 1, which says nothing and would flatten all others.
    """
    names = ("risk_diff", "ci_low", "ci_high")
    ends = [abs(r[name]) for r in rows for name in names if r[name] is not None and abs(r[name]) < 1]
    return max(ends, default=0.0) or 1.0


def _table(stored: Json | None, rows: Sequence[Json], sort: str) -> None:
    def order(key: str) -> None:
        address.put(sort=None if key == ORDERS[0] else key, after=None)

    expert_tables.show(
        _columns(stored, reach(rows)),
        [_row(r) for r in rows],
        key="experts-table",
        label="Experts",
        height=480,
        sort=sort,
        on_sort=order,
    )


def _explain(analysis: Json, stored: Json | None) -> None:
    total = words.count(sum(s["n_experts"] for s in analysis["sites"]))
    ui.note(
        f"{words.SIGN} The model has {total} experts; a click on a column's head orders all of them, a click on a row "
        "selects its cell on the heatmap. Load: 1 is an even share of the tokens."
    )
    if stored is None:
        ui.note("Intervals, p, q and how often an expert is chosen appear here once the statistics are computed.")
    elif not tested.testable(stored):
        ui.note(stored["summary"]["design"]["reason"])
