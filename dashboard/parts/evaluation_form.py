"""The form that starts an evaluation: what it would ask, of how many arms, is said before anything is queued."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json

INTERVENTIONS = {
    "deactivate": "deactivate: no token reaches these experts",
    "activate": "activate: every token reaches these experts",
    "trained": "trained: a trained model against its base",
    "none": "none: the model as it is",
}
STEERS = ("deactivate", "activate")
TRAINED = "training:"


def show(api: Api, wanted: str | None, model: str | None = None) -> None:
    """Show the form, or what must exist before it can be filled in.

    wanted: id of the expert set to start with; model: the trained model to ask beside its base.
    """
    models = [m for m in api.get("/models", limit=500)["items"] if m["supported"]]
    datasets = {d["id"]: d for d in api.get("/datasets", limit=500)["items"]}
    if not models or not datasets:
        ui.card("Nothing to ask yet", ["An evaluation needs a model and a prompt set."])
        return
    a, b = st.columns(2)
    with a:
        intervention = ui.pick("Intervention", INTERVENTIONS, first="trained" if model and not wanted else None)
    body: Json = {"intervention": intervention}
    with b:
        found = _what(api, intervention, models, wanted, model)
    if found is None:
        return
    body |= found | _prompts(datasets, intervention) | _more(api, datasets, intervention)
    plan = _plan(api, body)
    if st.button("Start the evaluation", type="primary", icon=":material/play_arrow:", disabled=plan is None):
        _submit(api, body)


def _what(api: Api, intervention: str, models: list[Json], wanted: str | None, model: str | None) -> Json | None:
    """Ask what is steered, or which model is asked."""
    if intervention not in STEERS:
        fitting = [m for m in models if intervention == "none" or _is_trained(m["id"])]
        if not fitting:
            ui.note("No trained model yet: finish a training first.")
            return None
        asked = ui.pick("Model", _names(api, fitting), first=model)
        return {"model": asked} | (_controls(api, asked) if intervention == "trained" else {})
    sets = {s["id"]: s for s in api.items("/expert-sets")}
    if not sets:
        ui.note("No expert set yet: save one in an analysis, under “Expert sets”.")
        if st.button("Go to analyses"):
            address.go("analysis")
        return None
    names = {i: f"{s['name']}  ({words.plural(s['n_experts'], 'expert')})" for i, s in sets.items()}
    chosen = ui.pick("Expert set", names, first=wanted)
    analysis = api.get(f"/analyses/{sets[chosen]['analysis_id']}")
    return {"expert_set_id": chosen, "model": analysis["model"]}


def _names(api: Api, models: list[Json]) -> dict[str, str]:
    """Return {id: what is shown}; a trained model is shown by its training's name."""
    own = {m["id"]: m["id"] for m in models}
    trained = api.get("/trainings", status="succeeded", limit=500)["items"] if any(map(_is_trained, own)) else []
    return own | {i: f"{t['name']}  ({i})" for t in trained if (i := f"{TRAINED}{t['id']}") in own}


def _is_trained(model: str) -> bool:
    return model.startswith(TRAINED)


def _controls(api: Api, model: str) -> Json:
    """Ask which trainings of random experts stand beside a trained model; only those that fit are offered."""
    found = list(api.items(f"/trainings/{model.removeprefix(TRAINED)}/controls"))
    fitting = {c["id"]: f"{c['name']}  ({c['expert_set_name']})" for c in found if c["why_not"] is None}
    chosen = st.multiselect(
        "Trainings of random experts, for comparison",
        list(fitting),
        format_func=fitting.__getitem__,
        placeholder="none" if fitting else "no other training fits",
        disabled=not fitting,
        max_selections=100,
        help="Does training these experts do more than training any experts? Choose trainings whose experts were "
        "drawn at random. Offered are finished ones in the same batches, with the same settings, of as many experts in "
        "every layer. Only you know whether theirs were drawn at random.",
    )
    others = [c for c in found if c["why_not"] is not None]
    if others:
        ui.note(
            f"Not offered: {words.plural(len(others), 'other training')} in these batches. “{others[0]['name']}”, "
            f"for one: {others[0]['why_not']}."
        )
    return {"controls": chosen}


def _prompts(datasets: dict[str, Json], intervention: str) -> Json:
    a, b, c = st.columns([2, 1, 1])
    names = {i: f"{d['name']}  ({words.count(d['n_rows'])} prompts)" for i, d in datasets.items()}
    with a:
        dataset = ui.pick("Prompts to ask", names)
    with b:
        most = int(st.number_input("Prompts, at most", 2, 10_000, 100))
    with c:
        longest = int(st.number_input("Tokens per answer, at most", 1, 1024, 32))
    body: Json = {"dataset_id": dataset, "max_prompts": most, "max_new_tokens": longest}
    if intervention != "none":
        body["holdout"] = st.toggle(
            "Only prompts and groups that nothing has used",
            help="Leaves out what chose the experts or trained the model. A claim about behaviour needs this.",
        )
    return body


def _more(api: Api, datasets: dict[str, Json], intervention: str) -> Json:
    judges = {j["kind"]: j for j in api.get("/evaluations/judges")["items"]}
    with st.expander("More settings"):
        a, b, c = st.columns(3)
        body: Json = {}
        with a:
            if intervention in STEERS:
                body["n_random"] = int(st.number_input("Random sets of each family", 0, 1000, 20))
                body["load_matched"] = st.toggle("Also sets of the same load", True)
            body["seed"] = int(st.number_input("Seed", 0, 2**31 - 1, 0, key="evaluation-seed"))
        with b:
            kinds = [k for k, j in judges.items() if j["available"]]
            kind = ui.pick("Judge of refusals", {k: k for k in kinds}, help=judges["phrases"]["what"])
            body["judge"] = _judge(kind)
            if "endpoint" not in kinds:
                ui.note(f"endpoint: {judges['endpoint']['what']}")
        with c:
            given = {"": "the safe prompts' own"} | {i: d["name"] for i, d in datasets.items()}
            capability = ui.pick("Responses for perplexity", given)
            body |= {"capability_dataset_id": capability} if capability else {}
            name = st.text_input("Name", placeholder="given when left empty", key="evaluation-name").strip()
            body |= {"name": name} if name else {}
    return body


def _judge(kind: str) -> Json:
    if kind != "classifier":
        return {"kind": kind}
    folder = st.text_input("Folder below the models folder", placeholder="org/classifier")
    label = st.text_input("Its class that means refusal", placeholder="REFUSAL")
    pair = st.toggle("Show it the prompt, too")
    return {"kind": kind, "model": folder, "label": label, "reads": "pair" if pair else "answer"}


def _plan(api: Api, body: Json) -> Json | None:
    """Say what would be done, or why it cannot be."""
    try:
        plan: Json = api.post("/evaluations", body, dry_run=True)
    except ApiRefused as error:
        ui.refused(error)
        return None
    n = plan["n_safe"] + plan["n_unsafe"]
    best = ", ".join(f"{words.number(p, 3)} ({family.replace('_', '-')})" for family, p in plan["smallest_p"].items())
    ui.note(
        f"{words.plural(plan['n_arms'], 'arm')} × {words.plural(n, 'prompt')} ({plan['n_safe']} safe, "
        f"{plan['n_unsafe']} unsafe)" + (f". The smallest p that this can show: {best}." if best else ".")
    )
    for warning in plan["warnings"]:
        ui.note(f"▲ {warning}")
    return plan


def _submit(api: Api, body: Json) -> None:
    try:
        made = api.post("/evaluations", body, key=ui.one_time_key("evaluation", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("evaluation")
    address.go("evaluation", id=made["id"])
