"""What a context run found: the tokens that drive an expert, and the experts that share their tokens.

Tokens are words of prompts: they are shown as plain text in table cells, never as markup.
"""

import streamlit as st

from dashboard import address, context_charts, data, fields, ui, words
from dashboard.client import Api, Json
from dashboard.heatmap import heatmap
from dashboard.parts import expert_tables
from dashboard.table import Column, Row, cell, table

LABELS = {"all": "safe and unsafe", "safe": "safe prompts", "unsafe": "unsafe prompts"}
ORDERS = {"excess": "most beyond chance", "lift": "highest lift", "count": "most often"}

# --- experts and their tokens

EXPERT_TAIL = (
    Column("top", "Token that does most", kind="code"),
    Column("share", "Its part", "right", minor=True),
    Column("concentration", "Concentration", "right", "part"),
    Column("tokens", "Distinct tokens", "right", minor=True),
)


def version(run: Json) -> str:
    """What the figures of a run depend on: how far it is."""
    return f"{run['status']}-{run['progress']['done']}"


def experts(api: Api, run: Json, pool: str) -> None:
    """Show the experts of a run, each with the token that does most for it."""
    rows = data.remember(api, f"/context/{run['id']}/experts", version(run), pool=pool, limit=500)["items"]
    risk = Column("risk", "risk_diff", "right", "bar", max=context_charts.most([r["risk_diff"] or 0 for r in rows]))
    made = [
        expert_tables.expert_row(
            r["layer"],
            r["expert"],
            {
                "risk": cell(words.signed(r["risk_diff"], 4), r["risk_diff"]),
                "top": cell(r["top"]["text"] if r["top"] else "–"),
                "share": cell(words.signed(r["top"]["contribution"], 4) if r["top"] else "–"),
                "concentration": cell(words.percent(r["concentration"], 0), r["concentration"]),
                "tokens": cell(words.count(r["n_tokens"]), r["n_tokens"]),
            },
        )
        for r in rows
    ]
    label = "Experts and the token that does most for each"
    expert_tables.show((expert_tables.EXPERT, risk, *EXPERT_TAIL), made, key="context-experts", label=label)
    ui.note(
        "Concentration: the share of the five largest contributions in all of them. Near 100 %, five tokens make the "
        "whole risk_diff: read them before you call the expert anything."
    )


def tokens(api: Api, run: Json, which: tuple[int, int], pool: str) -> None:
    """Show the tokens that drive an expert which the run looked at."""
    layer, expert = which
    path = f"/context/{run['id']}/experts/{layer}/{expert}"
    found = data.remember(api, path, version(run), pool=pool)
    if found["risk_diff"] is None:
        ui.card("No risk_diff to explain", [f"One label has no counted token here ({words.SCOPES[run['scope']]})."])
        return
    ui.facts(
        [
            ("risk_diff", words.signed(found["risk_diff"], 4), pool),
            ("concentration", words.percent(found["concentration"], 0), "by the five largest contributions"),
            ("distinct tokens", words.count(found["n_tokens"]), "that reached it"),
        ]
    )
    ui.share(
        path,
        {"pool": pool},
        key="share-tokens",
        save={form: f"tokens-{run['id']}-{layer}-{expert}.{form}" for form in ("csv", "parquet")},
    )
    _token_table(found)


def _token_table(found: Json) -> None:
    tokens = sorted(found["raising"] + found["lowering"], key=lambda t: -abs(t["contribution"]))
    largest = context_charts.most([t["contribution"] for t in tokens])
    columns = (
        Column("text", "Token", kind="code"),
        Column("part", "Contribution", "right", "bar", max=largest),
        Column("share", "Of risk_diff", "right", minor=True),
        Column("unsafe", "Hits on unsafe", "right"),
        Column("safe", "Hits on safe", "right"),
        Column("id", "Token id", "right", minor=True),
    )
    made = [
        Row(
            str(t["token_id"]),
            None,
            {
                "text": cell(t["text"]),
                "part": cell(words.signed(t["contribution"], 4), t["contribution"]),
                "share": cell(_part(t["share"]), t["share"]),
                **{
                    label: cell(
                        f"{words.count(t[f'hits_{label}'])} of {words.count(t[f'occurrences_{label}'])}",
                        t[f"hits_{label}"],
                    )
                    for label in ("unsafe", "safe")
                },
                "id": cell(t["token_id"], t["token_id"]),
            },
        )
        for t in tokens
    ]
    table(columns, made, key="context-tokens", label="Tokens that drive this expert", height=440)
    ui.note(
        f"Red raises risk_diff, blue lowers it. All other tokens together: {words.signed(found['rest'], 4)}; "
        "everything adds up to the risk_diff exactly. ␣ is a blank, ⏎ a line break. Hits: occurrences that were sent "
        "to the expert."
    )


def _part(share: float | None) -> str:
    return "–" if share is None else f"{words.signed(100 * share, 0)} %"


# --- pairs

PAIR_COLUMNS = (
    Column("pair", "Experts"),
    Column("observed", "Tokens that reached both", "right"),
    Column("expected", "Expected by chance", "right"),
    Column("lift", "Lift", "right"),
)


def pairs(api: Api, analysis: Json, run: Json, label: str, chosen: tuple[int, int] | None) -> None:
    """Show which experts of a layer are chosen for the same tokens."""
    st.subheader("Experts that share their tokens")
    layers = list(dict.fromkeys(s["layer"] for s in analysis["sites"]))
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        asked = address.index("pairs")
        default = asked if asked in layers else chosen[0] if chosen else layers[0]
        fields.give("pairs-layer", default)
        layer = st.selectbox(
            "Layer",
            layers,
            key="pairs-layer",
            width=120,
            on_change=lambda: address.put(pairs=st.session_state["pairs-layer"]),
        )
        order = ui.choice("First pairs", "order", ORDERS)
        path, params = f"/context/{run['id']}/coactivation", {"layer": layer, "label": label, "order": order}
        name = f"coactivation-{run['id']}-layer-{layer}-{label}"
        save = {form: f"{name}.{form}" for form in ("csv", "parquet", "npy")}
        ui.share(path, dict(params), key="share-pairs", save=save, plot=f"pairs:{name}")
    found = data.remember(api, path, version(run), **params)
    if found["reason"]:
        ui.note(f"{found['reason'][:1].upper()}{found['reason'][1:]}.")
        return
    lift, observed = data.matrix(found["lift"]), data.matrix(found["observed"])
    assert lift is not None
    assert observed is not None
    heatmap(context_charts.pairs_heat(lift, observed, f"Layer {layer}"), key=f"pairs:{name}", filename=name)
    ui.note(
        f"{words.count(found['pairs'])} pairs: every two of the {found['top_k']} experts of a token ({LABELS[label]}). "
        "Green: together more often than by chance; violet: less often; grey: an expert with itself, or never chosen. "
        "Lift is observed over expected; expected deals the pairs out by how often both experts are chosen at all."
    )
    _pair_table(found)


def _pair_table(found: Json) -> None:
    made = [
        Row(
            f"{p['a']}.{p['b']}",
            None,
            {
                "pair": cell(f"{p['a']} and {p['b']}", p["a"] * 100_000 + p["b"]),
                "observed": cell(words.count(p["observed"]), p["observed"]),
                "expected": cell(words.number(p["expected"], 1), p["expected"]),
                "lift": cell(f"{words.number(p['lift'], 2)} ×", p["lift"]),
            },
        )
        for p in found["top_pairs"]
    ]
    if made:
        table(PAIR_COLUMNS, made, key="pairs-table", label="Pairs of experts", height=360)
    else:
        ui.note("No pair was expected five times: there is too little here to speak of lift.")
