"""The form that starts a training: defaults filled, what is missing said beside the field."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json

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
TRACKERS = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases (offline)"}
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
    by_id = {a["id"]: a for a in analyses}
    ids = list(by_id)
    analysis_id = st.selectbox(
        "Analysis whose batches are trained",
        ids,
        index=ids.index(wanted) if wanted in by_id else 0,
        format_func=lambda i: (
            f"{by_id[i]['name']}  ({words.batches(by_id[i]['plan']['n_batches'])}, {by_id[i]['model']})"
        ),
    )
    ui.field_error(error, "analysis_id")
    body: Json = {"analysis_id": analysis_id}
    body |= _what_learns(api, by_id[analysis_id], error)
    body |= _targets(api, by_id[analysis_id], error)
    body |= _settings(error)
    missing = _missing(body)
    n_batches = by_id[analysis_id]["plan"]["n_batches"]
    steps = n_batches * body["epochs"]
    ui.note(
        f"{words.plural(steps, 'step')}: {words.batches(n_batches)} × {words.plural(body['epochs'], 'epoch')}, "
        "one step per batch."
    )
    if missing:
        ui.note(missing)
    if st.button("Start the training", type="primary", icon=":material/play_arrow:", disabled=bool(missing)):
        _submit(api, body)


def _missing(body: Json) -> str:
    if body["mode"] != "full" and not body["expert_set_id"]:
        return "Missing: an expert set. Save one on the analysis' “Expert sets”, or let the whole model learn."
    return ""


def _what_learns(api: Api, analysis: Json, error: ApiRefused | None) -> Json:
    sets = {s["id"]: s for s in api.items("/expert-sets", analysis_id=analysis["id"])}
    a, b, c = st.columns(3)
    with a:
        mode = ui.pick("What learns", MODES, index=0 if sets else 2)
        ui.field_error(error, "mode")
    with b:
        chosen = None
        if mode != "full" or sets:
            chosen = st.selectbox(
                "Expert set",
                list(sets),
                format_func=lambda i: f"{sets[i]['name']}  ({words.plural(sets[i]['n_experts'], 'expert')})",
                placeholder="none saved for this analysis yet",
            )
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
        routing = ui.pick("Routing while training", ROUTINGS)
        ui.field_error(error, "routing")
    keep = chosen if mode != "full" or routing == "masked" else None
    return {"mode": mode, "expert_set_id": keep, "routing": routing}


def _targets(api: Api, analysis: Json, error: ApiRefused | None) -> Json:
    meaning = api.get(f"/datasets/{analysis['dataset_id']}")["label_meaning"]
    ui.note(f"In this prompt set, safe means “{meaning['safe']}” and unsafe means “{meaning['unsafe']}”.")
    free = meaning["kind"] == "harmless_harmful"
    if not free:
        ui.note("The default targets are for harmless and harmful prompts only: say what each side should learn.")
    a, b = st.columns(2)
    offered = [k for k in SAFE_TARGETS if free or k != "default"]
    with a:
        safe = ui.pick("Safe prompts learn", {k: SAFE_TARGETS[k] for k in offered})
        ui.field_error(error, "safe")
    with b:
        unsafe = ui.pick("Unsafe prompts learn", {k: UNSAFE_TARGETS[k] for k in offered})
        ui.field_error(error, "unsafe")
    refusal = st.text_input("Refusal text", "I can't help with that request.")
    ui.field_error(error, "refusal_text")
    return {"targets": {"safe": safe, "unsafe": unsafe}, "refusal_text": refusal}


def _settings(error: ApiRefused | None) -> Json:
    a, b, c, d = st.columns(4)
    body: Json = {}
    with a:
        body["epochs"] = int(st.number_input("Epochs", 1, 1000, 1))
        ui.field_error(error, "epochs")
    with b:
        rate = st.text_input("Learning rate", "1e-4")
        try:
            body["learning_rate"] = float(rate)
        except ValueError:
            ui.note("Not a number; 1e-4 is used.")
            body["learning_rate"] = 1e-4
        ui.field_error(error, "learning_rate")
    with c:
        body["seed"] = int(st.number_input("Seed", 0, 2**31 - 1, 0))
        ui.field_error(error, "seed")
    with d:
        name = st.text_input("Name", placeholder="given when left empty")
        if name.strip():
            body["name"] = name.strip()
        ui.field_error(error, "name")
    with st.expander("More settings"):
        body |= _more(error)
    return body


def _more(error: ApiRefused | None) -> Json:
    a, b, c = st.columns(3)
    with a:
        decay = st.number_input("Weight decay", 0.0, 1.0, 0.0, step=0.01)
        norm = st.number_input("Largest gradient norm", 0.01, 1000.0, 1.0)
        ui.field_error(error, "max_grad_norm")
    with b:
        schedule = st.selectbox("Learning rate over time", ["constant", "linear"])
        warmup = st.number_input("Warm-up steps", 0, 100_000, 0)
        ui.field_error(error, "warmup_steps")
    with c:
        longest = st.number_input("Longest answer, tokens", 1, 8192, 128)
        every = st.number_input("Checkpoint every … steps", 1, 100_000, 20)
        ui.field_error(error, "max_answer_length")
    hardware = _hardware(error) | _adapter(error)
    trackers = st.multiselect(
        "Report every step to",
        list(TRACKERS),
        format_func=TRACKERS.__getitem__,
        placeholder="none",
        help="Where the worker has them installed. They write below its data folder; nothing leaves the machine unless "
        "the worker's owner set that up. The training's page says where the logs are.",
    )
    ui.field_error(error, "report_to")
    shuffle = st.toggle("Shuffle the order of batches between epochs", True, help="Never inside a batch.")
    preserve = st.toggle(
        "Preserve analysis batches", True, help="Off: the same samples flattened and reshuffled, the baseline."
    )
    return {
        "weight_decay": decay,
        "max_grad_norm": norm,
        "lr_schedule": schedule,
        "warmup_steps": warmup,
        "max_answer_length": longest,
        "checkpoint_every": every,
        "shuffle_batches": shuffle,
        "preserve_batches": preserve,
        "report_to": trackers,
    } | hardware


def _hardware(error: ApiRefused | None) -> Json:
    """Ask what changes speed and memory, not the batches. Empty fields leave the choice to the worker."""
    a, b, c = st.columns(3, vertical_alignment="bottom")
    with a:
        processes = st.number_input(
            "Processes",
            1,
            64,
            None,
            placeholder="one per GPU",
            help="They share every batch. Empty: as many as the worker has GPUs; one on a CPU.",
        )
        ui.field_error(error, "n_processes")
    with b:
        samples = st.number_input(
            "Samples per forward",
            1,
            100_000,
            None,
            placeholder="whole batch",
            help="For batches too large for memory: several forwards, still one step per batch.",
        )
        ui.field_error(error, "micro_batch_size")
    with c:
        shard = st.toggle(
            "Shard the weights",
            False,
            help="Each process keeps a part of every weight, for models larger than one GPU. Needs two processes.",
        )
        ui.field_error(error, "shard_weights")
    return {"n_processes": processes, "micro_batch_size": samples, "shard_weights": shard}


def _adapter(error: ApiRefused | None) -> Json:
    """Ask whether factors learn instead of whole matrices. Nothing is sent unless it is switched on."""
    a, b, c = st.columns(3, vertical_alignment="bottom")
    with a:
        wanted = st.toggle(
            "Low-rank adapters",
            False,
            help="Thin factors of the chosen experts' matrices learn instead of the matrices (LoRA): far less "
            "optimizer state. Only where the expert set learns. The trained model has them merged in.",
        )
        ui.field_error(error, "adapter")
    with b:
        rank = st.number_input("Rank", 1, 1024, 8, disabled=not wanted)
        ui.field_error(error, "rank")
    with c:
        alpha = st.number_input("Alpha", 0.01, 10_000.0, 16.0, disabled=not wanted, help="Scale: alpha / rank.")
        ui.field_error(error, "alpha")
    return {"adapter": {"rank": int(rank), "alpha": alpha}} if wanted else {}


def _submit(api: Api, body: Json) -> None:
    try:
        made = api.post("/trainings", body, key=ui.one_time_key("training", body))
    except ApiRefused as error:
        st.session_state["training-form-error"] = error
        st.rerun()
    ui.accepted("training")
    st.session_state.pop("training-form-error", None)
    address.go("training", id=made["id"])
