"""The form that starts a training: defaults filled, what is missing said beside the field."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import again, estimate, training_settings

MODES = {
    "selected": "only the expert set",
    "all_but_selected": "everything but the expert set",
    "full": "the whole model",
}
ROUTINGS = {
    "free": "free: tokens go where the router sends them",
    "masked": "masked: only through the selected experts",
}
SAFE_TARGETS = {
    "default": "default: the given response, else the model's own answer",
    "given": "the given response",
    "model": "the model's own greedy answer",
    "refusal": "the refusal text",
}
UNSAFE_TARGETS = SAFE_TARGETS | {"default": "default: the given response, else the refusal text"}


def show(api: Api, wanted: str | None) -> None:
    """Show the form, or what must exist before it can be filled in. wanted: id of the analysis to start with."""
    analyses = [a for a in api.get("/analyses", limit=500)["items"] if a["status"] == "succeeded"]
    if not analyses:
        ui.card(
            "No finished analysis yet",
            ["A training repeats the batches of a finished analysis. Start one and let it finish."],
        )
        if st.button("Go to analyses", type="primary"):
            address.go("analysis")
        return
    error: ApiRefused | None = st.session_state.get("training-form-error")
    if error:
        ui.refused(error)
    given = again.given(api, "trainings")
    by_id = {a["id"]: a for a in analyses}
    shown = {i: f"{a['name']}  ({words.batches(a['plan']['n_batches'])}, {a['model']})" for i, a in by_id.items()}
    analysis_id = ui.pick("Analysis whose batches are trained", shown, first=wanted or given.get("analysis_id"))
    ui.field_error(error, "analysis_id")
    body: Json = {"analysis_id": analysis_id}
    body |= _what_learns(api, by_id[analysis_id], error, given)
    body |= _targets(api, by_id[analysis_id], error, given)
    body |= training_settings.settings(error, given)
    missing = _missing(body)
    n_batches = by_id[analysis_id]["plan"]["n_batches"]
    steps = n_batches * body["epochs"]
    ui.note(
        f"{words.plural(steps, 'step')}: {words.batches(n_batches)} × {words.plural(body['epochs'], 'epoch')}, "
        "one step per batch."
    )
    if missing:
        ui.note(missing)
    else:
        _estimate(api, body)
    if st.button("Start the training", type="primary", icon=":material/play_arrow:", disabled=bool(missing)):
        _submit(api, body)


def _estimate(api: Api, body: Json) -> None:
    """Say what the training takes; what the API would refuse is said now, not after the click."""
    try:
        found = api.post("/trainings", body, dry_run=True)["estimate"]
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.facts(estimate.figures(found))
    estimate.warn(found)


def _missing(body: Json) -> str:
    if body["mode"] != "full" and not body["expert_set_id"]:
        return "Missing: an expert set. Save one on the analysis' “Expert sets”, or let the whole model learn."
    return ""


def _what_learns(api: Api, analysis: Json, error: ApiRefused | None, given: Json) -> Json:
    sets = {s["id"]: s for s in api.items("/expert-sets", analysis_id=analysis["id"])}
    a, b, c = st.columns(3)
    with a:
        mode = ui.pick("What learns", MODES, first=given.get("mode", "selected" if sets else "full"))
        ui.field_error(error, "mode")
    with b:
        chosen = None
        if mode != "full" or sets:
            names = {i: f"{s['name']}  ({words.plural(s['n_experts'], 'expert')})" for i, s in sets.items()}
            if names:
                chosen = ui.pick("Expert set", names, first=given.get("expert_set_id"))
            else:
                st.selectbox("Expert set", [], placeholder="none saved for this analysis yet")
        if mode != "full" and not sets:
            address.link(
                "Choose experts of this analysis",
                "analysis",
                icon=":material/arrow_forward:",
                id=analysis["id"],
                view="sets",
            )
        ui.field_error(error, "expert_set_id")
    with c:
        routing = ui.pick("Routing while training", ROUTINGS, first=given.get("routing"))
        ui.field_error(error, "routing")
    keep = chosen if mode != "full" or routing == "masked" else None
    return {"mode": mode, "expert_set_id": keep, "routing": routing}


def _targets(api: Api, analysis: Json, error: ApiRefused | None, given: Json) -> Json:
    meaning = api.get(f"/datasets/{analysis['dataset_id']}")["label_meaning"]
    ui.note(f"In this prompt set, safe means “{meaning['safe']}” and unsafe means “{meaning['unsafe']}”.")
    free = meaning["kind"] == "harmless_harmful"
    if not free:
        ui.note("The default targets are for harmless and harmful prompts only: say what each side should learn.")
    a, b = st.columns(2)
    offered = [k for k in SAFE_TARGETS if free or k != "default"]
    before = given.get("targets", {})
    with a:
        safe = ui.pick("Safe prompts learn", {k: SAFE_TARGETS[k] for k in offered}, first=before.get("safe"))
        ui.field_error(error, "safe")
    with b:
        unsafe = ui.pick(
            "Unsafe prompts learn",
            {k: UNSAFE_TARGETS[k] for k in offered},
            first=before.get("unsafe"),
        )
        ui.field_error(error, "unsafe")
    refusal = st.text_input("Refusal text", given.get("refusal_text", "I can't help with that request."))
    ui.field_error(error, "refusal_text")
    return {"targets": {"safe": safe, "unsafe": unsafe}, "refusal_text": refusal}


def _submit(api: Api, body: Json) -> None:
    try:
        made = api.post("/trainings", body, key=ui.one_time_key("training", body))
    except ApiRefused as error:
        st.session_state["training-form-error"] = error
        st.rerun()
    ui.accepted("training")
    st.session_state.pop("training-form-error", None)
    address.go("training", id=made["id"])
