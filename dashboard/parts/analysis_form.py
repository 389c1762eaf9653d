"""The form that starts an analysis: defaults filled, what is missing said beside the field."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import again, estimate

STRATEGIES = {
    "shuffled": "shuffled: prompts in random order",
    "as_listed": "as listed: the set's own order",
    "stratified": "stratified: the difficulty or category mix of each batch controlled",
    "paired": "paired: both members of a contrast pair in one batch",
}


DTYPES = {name: name for name in ("auto", "float32", "bfloat16", "float16")}


def show(api: Api) -> None:
    """Show the form, or what must exist before it can be filled in."""
    datasets = [d for d in api.get("/datasets", limit=500)["items"] if d["status"] == "succeeded"]
    models = api.get("/models", limit=500)["items"]
    usable = [m for m in models if m["supported"]]
    if not datasets:
        ui.card(
            "No prompt set yet",
            ["An analysis reads a stored prompt set. Load the demonstration prompts or your own first."],
        )
        if st.button("Go to prompt sets", type="primary"):
            address.go("datasets")
        return
    _models_state(api, models)
    if "scan-job" in st.session_state:
        _scanning()
    if usable:
        _form(api, datasets, usable)


def _models_state(api: Api, models: list[Json]) -> None:
    if not any(m["supported"] for m in models):
        ui.card(
            "No model yet",
            [
                "A worker scans the models folder (<code>ROUTEPRINT_MODELS_DIR</code>); put a model there, one folder "
                "each, and scan again. "
                "Models of the Hugging Face hub are used only with <code>ROUTEPRINT_ALLOW_HUB=true</code>."
            ],
        )
    refused = [m for m in models if not m["supported"]]
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Scan for models", icon=":material/refresh:", key="scan-models"):
            try:
                job = api.post("/models/scan")
            except ApiRefused as error:
                ui.refused(error)
            else:
                st.session_state["scan-job"] = job["id"]
        if refused:
            with st.popover(f"{words.plural(len(refused), 'model')} cannot be used"):
                for model in refused:
                    st.text(f"{model['id']}: {model['reason']}")


@st.fragment(run_every=1.5)
@ui.guarded
def _scanning() -> None:
    """Follow a scan; draw the page again when it has ended, so that what it found can be chosen."""
    job = ui.api().get(f"/jobs/{st.session_state['scan-job']}")
    if job["status"] in words.UNFINISHED:
        ui.note(f"Scanning the models folder: {job['waiting_for'] or words.state(job['status'])} …")
        return
    st.session_state.pop("scan-job")
    if job["error"]:
        st.toast(f"The scan failed: {ui.plain(job['error'])}")
    st.rerun(scope="app")


def _model_words(model: Json) -> str:
    return f"{model['id']}  ({model['moe_layers']} MoE layers × {model['n_experts']} experts, top {model['top_k']})"


def _form(api: Api, datasets: list[Json], models: list[Json]) -> None:
    wanted = st.session_state.get("analysis-form-error")
    given = again.given(api, "analyses")
    sets = {d["id"]: d for d in datasets}
    left, right = st.columns(2, gap="medium")
    with left:
        names = {i: f"{d['name']}  ({d['n_safe']} safe, {d['n_unsafe']} unsafe)" for i, d in sets.items()}
        dataset = ui.pick("Prompt set", names, first=address.text("dataset") or given.get("dataset_id"))
        ui.field_error(wanted, "dataset_id")
    with right:
        by_id = {m["id"]: m for m in models}
        model = ui.pick("Model", {i: _model_words(m) for i, m in by_id.items()}, first=given.get("model"))
        ui.field_error(wanted, "model")
    body: Json = {"dataset_id": dataset, "model": model}
    body |= _plan_fields(wanted, given)
    body |= _measure_fields(wanted, by_id[model], given)
    name = st.text_input("Name", placeholder="given from model and prompt set when left empty", width=460)
    if name.strip():
        body["name"] = name.strip()
    planned = _plan_preview(api, body)
    if st.button("Start the analysis", type="primary", icon=":material/play_arrow:", disabled=not planned):
        _submit(api, body)


def _plan_fields(wanted: ApiRefused | None, given: Json) -> Json:
    a, b, c, d = st.columns(4)
    with a:
        size = st.number_input(
            "Batch size",
            2,
            4096,
            given.get("batch_size", 16),
            help="Safe prompts first, then unsafe; one batch later is one training step.",
        )
        ui.field_error(wanted, "batch_size")
    with b:
        ratio = st.number_input("Share of safe prompts", 0.01, 0.99, given.get("safe_ratio", 0.5), step=0.05)
        ui.field_error(wanted, "safe_ratio")
    with c:
        strategy = ui.pick("Order of prompts", STRATEGIES, first=given.get("strategy"))
        ui.field_error(wanted, "strategy")
    with d:
        seed = st.number_input("Seed", 0, 2**31 - 1, given.get("seed", 0))
        ui.field_error(wanted, "seed")
    fields: Json = {"batch_size": size, "safe_ratio": ratio, "strategy": strategy, "seed": seed}
    if strategy == "stratified":
        fields["stratify_by"] = st.multiselect(
            "Control the mix of", ["difficulty", "category", "group"], given.get("stratify_by", ["difficulty"])
        )
        ui.field_error(wanted, "stratify_by")
    return fields


def _measure_fields(wanted: ApiRefused | None, model: Json, given: Json) -> Json:
    with st.expander("More settings"):
        a, b, c = st.columns(3)
        with a:
            engines = {name: name for name in model["engines"] or ["transformers"]}
            engine = ui.pick("Engine", engines, first=given.get("engine"))
            ui.field_error(wanted, "engine")
            scopes = st.multiselect(
                "Tokens counted",
                list(words.SCOPES),
                given.get("scopes", ["prompt"]),
                format_func=lambda s: words.SCOPES[s],
                help="Response tokens: the answers given in the set, or generated ones (new tokens below).",
            )
            if not scopes:
                ui.note("Choose at least one.")
            ui.field_error(wanted, "scopes")
        with b:
            max_length = st.number_input(
                "Longest prompt, tokens",
                1,
                131_072,
                given.get("max_length", 512),
                help="Longer prompts are cut on the right and flagged.",
            )
            ui.field_error(wanted, "max_length")
            new_tokens = st.number_input(
                "New tokens generated per prompt", 0, 8192, given.get("max_new_tokens", 0), help="0: generate nothing."
            )
            ui.field_error(wanted, "max_new_tokens")
        with c:
            dtype = ui.pick("Number format", DTYPES, first=given.get("dtype"))
            ui.field_error(wanted, "dtype")
            keep_short = st.toggle("Keep a short last batch", given.get("keep_short", True))
        own_only = st.checkbox(
            "Leave out what the chat template adds",
            given.get("exclude_template_tokens", False),
            help="Prompt tokens are then the words of the prompts alone. Role markers, special tokens, the generation "
            "prompt and the system prompt below go through the model as ever, but do not count. The last prompt token "
            "stays the last one.",
        )
        ui.field_error(wanted, "exclude_template_tokens")
        system = st.text_area("System prompt (optional)", given.get("system_prompt") or "", height=70)
        ui.field_error(wanted, "system_prompt")
    return {
        "engine": engine,
        "scopes": scopes or ["prompt"],
        "max_length": max_length,
        "max_new_tokens": new_tokens,
        "dtype": dtype,
        "keep_short": keep_short,
        "exclude_template_tokens": own_only,
        "system_prompt": system.strip() or None,
    }


def _plan_preview(api: Api, body: Json) -> bool:
    """Say what the plan will be, from a dry run; return whether it can start."""
    try:
        found = api.post("/analyses", body, dry_run=True)
    except ApiRefused as error:
        ui.refused(error)
        return False
    plan = found["plan"]
    left_out = ", ".join(f"{n} × {reason}" for reason, n in (plan.get("left_out_reasons") or {}).items())
    ui.facts(
        [
            ("planned batches", words.count(plan["n_batches"]), ""),
            (
                "prompts in batches",
                words.count(plan["n_samples"]),
                f"{words.count(plan['n_safe'])} safe, {words.count(plan['n_unsafe'])} unsafe",
            ),
            ("left out", words.count(plan["n_left_out"]), left_out),
            *estimate.figures(found["estimate"]),
        ]
    )
    estimate.warn(found["estimate"])
    return True


def _submit(api: Api, body: Json) -> None:
    try:
        made = api.post("/analyses", body, key=ui.one_time_key("analysis", body))
    except ApiRefused as error:
        st.session_state["analysis-form-error"] = error
        st.rerun()
    ui.accepted("analysis")
    st.session_state.pop("analysis-form-error", None)
    address.go("analysis", id=made["id"])
