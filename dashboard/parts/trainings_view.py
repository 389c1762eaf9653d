"""Several trainings side by side: settings that differ, loss on one scale, the experts each one trained."""

from collections.abc import Sequence
from itertools import combinations

import streamlit as st

from dashboard import address, data, training_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import run_tables
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

AXES = {"step": "per step", "epoch": "per epoch"}


def show(api: Api, ids: list[str]) -> None:
    """Show these trainings side by side."""
    ui.page_title(f"Compare {len(ids)} trainings")
    ui.heading(f"{len(ids)} trainings side by side", "What was set, how the loss fell, and which experts each trained.")
    try:
        found = [api.get(f"/trainings/{id_}") for id_ in ids]
    except ApiRefused as error:
        ui.refused(error)
        address.link("Choose others", "training", icon=":material/arrow_back:")
        return
    _outcomes(found)
    _curves(api, found)
    _settings(found)
    _experts(api, found)
    _routing(api, found)


def _names(found: Sequence[Json]) -> list[str]:
    return [f"{number}: {training['name']}" for number, training in enumerate(found, 1)]


OUTCOMES = (
    Column("name", "Training"),
    Column("status", "Status", kind="status"),
    Column("what", "What learns", minor=True),
    Column("steps", "Steps", "right"),
    Column("verified", "Verified", "right"),
    Column("loss", "Last loss", "right"),
    Column("took", "Took", "right", minor=True),
)


def _outcomes(found: Sequence[Json]) -> None:
    made = []
    for name, training in zip(_names(found), found, strict=True):
        took = words.between(training["started_at"], training["finished_at"])
        cells = {
            "name": cell(name, hint=training["id"]),
            "status": cell(words.state(training["status"]), training["status"], training["error"]),
            "what": cell(run_tables.what_learns(training)),
            "steps": cell(f"{words.count(training['n_recorded'])} of {words.count(training['n_steps'])}"),
            "verified": cell(run_tables.verified_words(training), training["n_verified"]),
            "loss": cell(words.number(training["final_loss"]), training["final_loss"]),
            "took": cell(words.duration(took), took),
        }
        made.append(Row(training["id"], address.href("training", id=training["id"]), cells))
    opened = table(OUTCOMES, made, key="compared-trainings", label="Trainings beside each other")
    if opened:
        address.go("training", id=opened)


@st.fragment
@ui.guarded
def _curves(api: Api, found: Sequence[Json]) -> None:
    st.subheader("Loss")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = ui.choice("Loss of", "loss", training_charts.LOSSES)
        axis = ui.choice("Along", "along", AXES)
    steps = [data.all_items(api, f"/trainings/{one['id']}/steps", data.version(one), fields="summary") for one in found]
    figure = training_charts.losses(_names(found), steps, key, epochs=axis == "epoch")
    plot = f"losses:{':'.join(one['id'] for one in found)}"
    lines(figure, key=plot, filename="losses")
    path = f"/trainings/{found[0]['id']}/steps"
    ui.share(path, {"fields": "summary"}, key="share-losses", figure=(figure, "losses"), plot=plot)
    if len({one["analysis_id"] for one in found}) > 1:
        ui.note("These trained the batches of different analyses: their losses are over different prompts.")


def _settings(found: Sequence[Json]) -> None:
    st.subheader("Settings that differ")
    named = [one["params"] | {"analysis": one["analysis_name"], "expert set": one["expert_set_name"]} for one in found]
    hidden = {"name", "analysis_id", "expert_set_id"}
    different = {k: v for k, v in training_charts.differing(named).items() if k not in hidden}
    if not different:
        ui.note("None: these trainings were started with the same settings.")
        return
    columns = (Column("setting", "Setting"), *(Column(f"t{i}", name[:40]) for i, name in enumerate(_names(found))))
    made = [
        Row(
            name,
            None,
            {"setting": cell(name.replace("_", " "))} | {f"t{i}": cell(said(value)) for i, value in enumerate(values)},
        )
        for name, values in different.items()
    ]
    table(columns, made, key="settings-that-differ", label="Settings that differ")


def said(value: object) -> str:
    """Say a setting of a training in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return words.short_float(value)
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')}: {said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(said, value)) or "–"
    return "–" if value is None else str(value)


SHARED = (
    Column("pair", "Pair"),
    Column("both", "Experts in both sets", "right"),
    Column("jaccard", "Jaccard", "right", "part"),
)


def _experts(api: Api, found: Sequence[Json]) -> None:
    chosen = {
        name: one["expert_set_id"] for name, one in zip(_names(found), found, strict=True) if one["expert_set_id"]
    }
    if len(chosen) < 2:
        return
    st.subheader("Overlap of their expert sets")
    sets = {id_: api.get(f"/expert-sets/{id_}") for id_ in set(chosen.values())}
    made = []
    for one, other in combinations(chosen, 2):
        a, b = sets[chosen[one]]["experts"], sets[chosen[other]]["experts"]
        both, jaccard = training_charts.shared(a, b)
        cells = {
            "pair": cell(f"{one} and {other}"),
            "both": cell(f"{words.count(both)} of {words.count(len(a))} and {words.count(len(b))}", both),
            "jaccard": cell(words.number(jaccard, 2), jaccard),
        }
        made.append(Row(f"{one}.{other}", None, cells))
    table(SHARED, made, key="shared-experts", label="Overlap of the expert sets")


def _routing(api: Api, found: Sequence[Json]) -> None:
    """Lead to the routing of the trained models, where they were measured, beside the analyses they came from."""
    st.subheader("Their routing")
    measured = []
    for one in found:
        model = one["result"].get("model_id")
        known = api.get("/analyses", model=model, status="succeeded", limit=1)["items"] if model else []
        measured += [analysis["id"] for analysis in known]
    sides = list(dict.fromkeys([*(one["analysis_id"] for one in found[:1]), *measured]))
    if len(sides) > 1:
        ui.note(f"{words.plural(len(measured), 'trained model')} of {len(found)} measured, beside the first analysis.")
        address.link("Compare their routing", "compare", icon=":material/compare_arrows:", **_query(sides))
    else:
        ui.note(
            "None of these trained models was measured yet. Each one's page offers to measure it on the same plan; "
            "then their routing can be compared here."
        )


def _query(sides: list[str]) -> dict[str, str]:
    return {"a": sides[0], "b": sides[1]} if len(sides) == 2 else {"of": ".".join(sides[:8])}
