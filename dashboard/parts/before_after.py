"""From a trained model to the comparison with the analysis it came from, on the same plan."""

import streamlit as st

from dashboard import address, ui
from dashboard.client import Api, ApiRefused, Json

TRAINED = "training:"


def of_training(api: Api, training: Json) -> None:
    """On a finished training: lead to its evaluation, and to the comparison, or measure the trained model for it."""
    model = training["result"].get("model_id")
    if training["status"] != "succeeded" or not model:
        return
    address.link(
        "Evaluate it against the untrained model",
        "evaluation",
        icon=":material/balance:",
        help="Does it refuse more, and does it still answer? The same prompts, asked of both.",
        model=model,
    )
    found = [
        one
        for one in api.items("/analyses", model=model, most=500)
        if one["params"].get("plan_of") == training["analysis_id"]
    ]
    if found:
        address.link(
            "Compare with the analysis it came from",
            "compare",
            icon=":material/compare_arrows:",
            a=training["analysis_id"],
            b=found[0]["id"],
        )
    elif st.button(
        "Measure the trained model on the same plan",
        icon=":material/compare_arrows:",
        help="The same prompts in the same batches, so that the two can be compared prompt by prompt.",
    ):
        _measure(api, training["analysis_id"], model)


def _measure(api: Api, origin_id: str, model: str) -> None:
    try:
        origin = api.get(f"/analyses/{origin_id}")
        body = origin["params"] | {
            "model": model,
            "plan_of": origin_id,
            "name": f"After training: {origin['name']}"[:200],
        }
        made = api.post("/analyses", body, key=ui.one_time_key("measure-trained", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("measure-trained")
    address.go("analysis", id=made["id"])


def of_analysis(api: Api, analysis: Json) -> None:
    """On an analysis of a trained model: lead back to its training, and to the comparison."""
    if not analysis["model"].startswith(TRAINED):
        return
    try:
        training = api.get(f"/trainings/{analysis['model'].removeprefix(TRAINED)}")
    except ApiRefused:
        return
    with st.container(horizontal=True):
        label = f"Training: {ui.plain(training['name'])}"
        address.link(label, "training", icon=":material/arrow_upward:", id=training["id"])
        address.link(
            "Compare with the analysis it came from",
            "compare",
            icon=":material/compare_arrows:",
            a=training["analysis_id"],
            b=analysis["id"],
        )
