"""The form that starts a study: how many runs it would be is said before anything is queued."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import training_settings

ONLY_NEW = "Only prompts that nothing has used"


def show(api: Api, wanted: str | None) -> None:
    """Show the form, or what must exist before it can be filled in. wanted: id of the expert set to start with."""
    analyses = {a["id"]: a for a in api.items("/analyses", status="succeeded", most=2000)}
    sets = {s["id"]: s for s in api.items("/expert-sets") if s["analysis_id"] in analyses and s["kind"] == "global"}
    if not sets:
        ui.card(
            "No expert set yet",
            ["A study trains the experts of a set that was chosen in a finished analysis. Save one there first."],
        )
        if st.button("Choose experts in an analysis", type="primary"):
            address.go("analysis")
        return
    a, b = st.columns(2)
    with a:
        names = {i: f"{s['name']}  ({analyses[s['analysis_id']]['name']})" for i, s in sets.items()}
        chosen = sets[ui.pick("Expert set", names, first=wanted)]
    with b:
        datasets = {d["id"]: d for d in api.get("/datasets", limit=500)["items"]}
        shown = {i: f"{d['name']}  ({words.count(d['n_rows'])} prompts)" for i, d in datasets.items()}
        asked = ui.pick("Prompts to ask the trained models", shown, help="Best a set that the analysis has not seen.")
    body: Json = {"analysis_id": chosen["analysis_id"], "expert_set_id": chosen["id"]}
    body |= _sizes(asked)
    plan = _plan(api, body)
    if st.button("Start the study", type="primary", icon=":material/play_arrow:", disabled=plan is None):
        _submit(api, body)


def _sizes(dataset_id: str) -> Json:
    a, b, c, d = st.columns(4)
    with a:
        n_seeds = int(st.number_input("Seeds", 2, 50, 5, help="Runs per arm: 0, 1, 2, …"))
    with b:
        epochs = int(st.number_input("Epochs", 1, 1000, 1, key="study-epochs"))
    with c:
        rate = training_settings.learning_rate("1e-4", key="study-rate")
    with d:
        most = int(st.number_input("Prompts to ask, at most", 2, 10_000, 100))
    with st.expander("More settings"):
        e, f, g = st.columns(3)
        with e:
            n_random = int(st.number_input("Random sets of each family", 0, 1000, 20, key="study-random"))
            longest = int(st.number_input("Tokens per answer, at most", 1, 1024, 32, key="study-tokens"))
        with f:
            holdout = st.toggle(ONLY_NEW, True, help="Off: the result will be called in-sample.")
            matched = st.toggle("Also random sets of the same load", True, key="study-matched")
        with g:
            name = st.text_input("Name", placeholder="given when left empty", key="study-name").strip()
    training = {"epochs": epochs, "learning_rate": rate}
    evaluation = {"dataset_id": dataset_id, "max_prompts": most, "max_new_tokens": longest, "n_random": n_random}
    evaluation |= {"holdout": holdout, "load_matched": matched}
    named = {"name": name} if name else {}
    return {"seeds": list(range(n_seeds)), "training": training, "evaluation": evaluation} | named


def _plan(api: Api, body: Json) -> Json | None:
    """Say how large the study would be, or why it cannot be."""
    try:
        plan: Json = api.post("/studies", body, dry_run=True)
    except ApiRefused as error:  # nobody has asked for anything yet: what is missing is no fault
        for reason in dict.fromkeys([error.detail, *(str(e.get("msg", "")) for e in error.errors)]):
            ui.note(f"▲ {reason}")
        if error.for_field("holdout"):
            ui.note(f"The switch for it: “{ONLY_NEW}”, under “More settings”.")
        return None
    size = plan["estimate"]
    runs = size["runs"]
    ui.note(
        f"{words.count(size['n_runs'])} runs: {runs['training']} trainings ({words.count(size['n_steps'])} steps), "
        f"{runs['analysis']} measurements of trained models ({words.count(size['n_measured'])} prompts), "
        f"{runs['evaluation']} evaluations and one causal check of {plan['n_arms']} arms "
        f"({words.count(size['n_answers'])} answers to {plan['n_safe']} safe and {plan['n_unsafe']} unsafe prompts), "
        f"{runs['comparison']} comparisons."
    )
    if size["smallest_p_level"] is not None:
        ui.note(
            f"With {len(body['seeds'])} seeds the smallest p for a difference in level is "
            f"{words.p_value(size['smallest_p_level'])}; eight seeds reach 0.008."
        )
    for warning in plan["warnings"]:
        ui.note(f"▲ {warning}")
    return plan


def _submit(api: Api, body: Json) -> None:
    try:
        made = api.post("/studies", body, key=ui.one_time_key("study", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("study")
    address.go("study", id=made["id"])
