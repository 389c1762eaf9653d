"""The settings of a training that do not say what learns what: how long, how fast, on what hardware, told to whom."""

import streamlit as st

from dashboard import ui
from dashboard.client import ApiRefused, Json

TRACKERS = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases (offline)"}
SCHEDULES = {"constant": "constant", "linear": "linear"}


def settings(error: ApiRefused | None, given: Json) -> Json:
    """Show the fields; return what they say. error: what the API refused last; given: values to begin with."""
    a, b, c, d = st.columns(4)
    body: Json = {}
    with a:
        body["epochs"] = int(st.number_input("Epochs", 1, 1000, given.get("epochs", 1)))
        ui.field_error(error, "epochs")
    with b:
        body["learning_rate"] = learning_rate(f"{given['learning_rate']:.12g}" if given else "1e-4")
        ui.field_error(error, "learning_rate")
    with c:
        body["seed"] = int(st.number_input("Seed", 0, 2**31 - 1, given.get("seed", 0)))
        ui.field_error(error, "seed")
    with d:
        name = st.text_input("Name", placeholder="given when left empty")
        if name.strip():
            body["name"] = name.strip()
        ui.field_error(error, "name")
    with st.expander("More settings"):
        body |= _more(error, given)
    return body


def learning_rate(first: str, key: str | None = None) -> float:
    """Show the field; what is not a number is said to be taken as 1e-4."""
    try:
        return float(st.text_input("Learning rate", first, key=key))
    except ValueError:
        ui.note("Not a number; 1e-4 is used.")
        return 1e-4


def _more(error: ApiRefused | None, given: Json) -> Json:
    a, b, c, d = st.columns(4)
    with a:
        decay = st.number_input("Weight decay", 0.0, 1.0, given.get("weight_decay", 0.0), step=0.01)
        norm = st.number_input("Largest gradient norm", 0.01, 1e6, given.get("max_grad_norm", 1.0))
        ui.field_error(error, "max_grad_norm")
    with b:
        schedule = ui.pick("Learning rate over time", SCHEDULES, first=given.get("lr_schedule"))
        warmup = st.number_input("Warm-up steps", 0, 10**9, given.get("warmup_steps", 0))
        ui.field_error(error, "warmup_steps")
    with c:
        longest = st.number_input("Longest answer, tokens", 1, 131_072, given.get("max_answer_length", 128))
        ui.field_error(error, "max_answer_length")
    with d:
        every = st.number_input("Checkpoint every … steps", 1, 10**9, given.get("checkpoint_every", 20))
        keep = st.number_input(
            "Checkpoints kept at the end",
            0,
            1000,
            given.get("keep_checkpoints", 1),
            help="How many of the newest stay on disk beside the trained model once it is there. Each is at least as "
            "large as the model (small with adapters). 0: only the model. While it runs, two are kept anyway.",
        )
        ui.field_error(error, "keep_checkpoints")
    hardware = _hardware(error, given) | _adapter(error, given) | _routers(error, given)
    trackers = st.multiselect(
        "Report every step to",
        list(TRACKERS),
        given.get("report_to", []),
        format_func=TRACKERS.__getitem__,
        placeholder="none",
        help="Where the worker has them installed. They write below its data folder; nothing leaves the machine unless "
        "the worker's owner set that up. The training's page says where the logs are.",
    )
    ui.field_error(error, "report_to")
    shuffle = st.toggle(
        "Shuffle the order of batches between epochs", given.get("shuffle_batches", True), help="Never inside a batch."
    )
    preserve = st.toggle(
        "Preserve analysis batches",
        given.get("preserve_batches", True),
        help="Off: the same samples flattened and reshuffled, the baseline.",
    )
    return {
        "weight_decay": decay,
        "max_grad_norm": norm,
        "lr_schedule": schedule,
        "warmup_steps": warmup,
        "max_answer_length": longest,
        "checkpoint_every": every,
        "keep_checkpoints": keep,
        "shuffle_batches": shuffle,
        "preserve_batches": preserve,
        "report_to": trackers,
    } | hardware


def _hardware(error: ApiRefused | None, given: Json) -> Json:
    """Ask what changes speed and memory, not the batches. Empty fields leave the choice to the worker."""
    a, b, c = st.columns(3, vertical_alignment="bottom")
    with a:
        processes = st.number_input(
            "Processes",
            1,
            64,
            given.get("n_processes"),
            placeholder="one per GPU",
            help="They share every batch. Empty: as many as the worker has GPUs; one on a CPU.",
        )
        ui.field_error(error, "n_processes")
    with b:
        samples = st.number_input(
            "Samples per forward",
            1,
            100_000,
            given.get("micro_batch_size"),
            placeholder="whole batch",
            help="For batches too large for memory: several forwards, still one step per batch.",
        )
        ui.field_error(error, "micro_batch_size")
    with c:
        shard = st.toggle(
            "Shard the weights",
            given.get("shard_weights", False),
            help="Each process keeps a part of every weight, for models larger than one GPU. Needs two processes.",
        )
        ui.field_error(error, "shard_weights")
    return {"n_processes": processes, "micro_batch_size": samples, "shard_weights": shard}


def _adapter(error: ApiRefused | None, given: Json) -> Json:
    """Ask whether factors learn instead of whole matrices. Nothing is sent unless it is switched on."""
    before = given.get("adapter") or {}
    a, b, c = st.columns(3, vertical_alignment="bottom")
    with a:
        wanted = st.toggle(
            "Low-rank adapters",
            bool(before),
            help="Thin factors of the chosen experts' matrices learn instead of the matrices (LoRA): far less "
            "optimizer state. Only where the expert set learns. The trained model has them merged in.",
        )
        ui.field_error(error, "adapter")
    with b:
        rank = st.number_input("Rank", 1, 1024, before.get("rank", 8), disabled=not wanted)
        ui.field_error(error, "rank")
    with c:
        alpha = st.number_input(
            "Alpha", 0.01, 10_000.0, float(before.get("alpha", 16.0)), disabled=not wanted, help="Scale: alpha / rank."
        )
        ui.field_error(error, "alpha")
    return {"adapter": {"rank": int(rank), "alpha": alpha}} if wanted else {}


def _routers(error: ApiRefused | None, given: Json) -> Json:
    """Ask whether routers learn in turn. Nothing is sent unless it is switched on."""
    before = given.get("routers")
    a, b = st.columns([1, 2], vertical_alignment="bottom")
    with a:
        wanted = st.toggle(
            "Routers in turn",
            before is not None,
            help="Every second step brings the routing of unsafe prompts closer to that of their safe counterparts. "
            "Needs an analysis with the strategy “paired”; not together with adapters.",
        )
        ui.field_error(error, "routers")
    with b:
        rate = st.number_input(
            "Learning rate of the routers",
            1e-8,
            10.0,
            (before or {}).get("learning_rate"),
            format="%.2e",
            placeholder="as above",
            disabled=not wanted,
        )
    return {"routers": {"learning_rate": rate}} if wanted else {}
