"""`routeprint demo`: the whole path on a small model that is trained here, every step of it through the public API."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from backend.commands.client import Client, Json
from backend.commands.run import ended_by_signal, say_addresses
from backend.commands.screen import bar, console, errors, say
from backend.domain.errors import RouteprintError
from backend.security import read_token
from backend.services import check_ports, dashboard_url, local_api_url, services_up, watch
from backend.settings import Settings, get_settings
from backend.store.tables import utcnow

MODEL = "routeprint/demo-olmoe"
TOP_K = 8


class DemoFailed(RouteprintError):
    """A step of the demonstration did not do what it is there to show."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demonstration produced: the resources as the API returns them."""

    analysis: Json
    training: Json
    first_step: Json
    max_abs_risk_diff: float
    steps: int
    verified_steps: int
    chain_holds: bool

    @property
    def holds(self) -> bool:
        """Whether every step was trained on exactly the batch that was measured."""
        return self.chain_holds and 0 < self.steps == self.verified_steps


def build_model(settings: Settings, seed: int) -> None:
    """Train the demonstration model in a process of its own: this one never loads torch. Cached afterwards."""
    if find_spec("torch") is None:
        raise DemoFailed("There is no torch here: the demonstration needs it. pip install 'routeprint[worker]'.")
    command = [sys.executable, "-m", "worker.demo", "--out", str(settings.models_path / MODEL), "--seed", str(seed)]
    quiet = os.environ | {"TQDM_DISABLE": "1"}  # the builder shows its own progress
    done = subprocess.run(command, env=quiet, check=False)  # noqa: S603 - our own interpreter and our own module
    if done.returncode:
        raise DemoFailed(f"The demonstration model could not be built (status {done.returncode}); see above.")


def find_model(api: Client, since: str) -> Json | None:
    """Return the demonstration model if a worker has scanned it since that moment."""
    return next((m for m in api.items("models") if m["id"] == MODEL and m["scanned_at"] >= since), None)


def wait_for_model(api: Client, since: str) -> Json:
    """Return the demonstration model as a worker sees it. A worker that starts has scanned; else it is asked to."""
    model = find_model(api, since)
    if model is None:
        with bar("scanning the models folder") as advance:
            scan = api.post("models/scan")
            api.wait(f"jobs/{scan['id']}", advance)
        model = find_model(api, since)
    if model is None:
        raise DemoFailed(f"The worker did not find {MODEL} in the models folder.")
    if not model["supported"]:
        raise DemoFailed(f"The worker does not support the demonstration model: {model['reason']}")
    return model


def analyse(api: Client, dataset_id: str, seed: int) -> Json:
    """Measure every batch of the demonstration prompts on the demonstration model."""
    body = {"dataset_id": dataset_id, "model": MODEL, "seed": seed, "name": "Demonstration"}
    with bar("analysis: batches measured") as advance:
        return api.wait(f"analyses/{api.post('analyses', body)['id']}", advance)


def choose_experts(api: Client, analysis_id: str) -> Json:
    """Choose the experts that fire more on unsafe prompts."""
    body = {"name": f"The {TOP_K} most unsafe", "method": "top_k", "k": TOP_K}
    chosen: Json = api.post(f"analyses/{analysis_id}/expert-sets", body)
    return chosen


def train(api: Client, analysis_id: str, expert_set_id: str, seed: int) -> Json:
    """Train only the chosen experts for one epoch, in the batches that were measured."""
    body = {"analysis_id": analysis_id, "expert_set_id": expert_set_id, "seed": seed, "name": "Demonstration"}
    with bar("training: steps = batches") as advance:
        return api.wait(f"trainings/{api.post('trainings', body)['id']}", advance)


def run_path(api: Client, seed: int, since: str) -> Shown:
    """Walk the whole path, as a user does by hand or by REST. `since`: when the services were started (ISO, UTC)."""
    dataset = api.post("datasets/demo")
    say(f"[green]✓[/] {dataset['n_rows']} prompts: {dataset['n_safe']} safe, {dataset['n_unsafe']} unsafe")
    model = wait_for_model(api, since)
    say(f"  {model['id']}: {model['architecture']}, {model['moe_layers']} MoE layers of {model['n_experts']} experts")
    analysis = analyse(api, dataset["id"], seed)
    risk = api.get(f"analyses/{analysis['id']}/risk-diff")
    chosen = choose_experts(api, analysis["id"])
    say(
        f"  largest |risk_diff| {risk['max_abs']:.3f} over {risk['n_batches']} batches; "
        f"expert set: {chosen['n_experts']} of {chosen['n_total']}"
    )
    training = train(api, analysis["id"], chosen["id"], seed)
    with console.status("verifying the chain from stored rows"):
        chain = api.post(f"trainings/{training['id']}/verify")
    return Shown(
        analysis=analysis,
        training=training,
        first_step=api.get(f"trainings/{training['id']}/steps/1"),
        max_abs_risk_diff=risk["max_abs"],
        steps=training["n_recorded"],
        verified_steps=training["n_verified"],
        chain_holds=chain["ok"],
    )


def summary(shown: Shown, settings: Settings, seconds: float) -> dict[str, Any]:
    """Return the object that `--exit` prints as its last line; its keys are a contract."""
    return {
        "analysis_id": shown.analysis["id"],
        "training_id": shown.training["id"],
        "batches": shown.analysis["n_measured"],
        "steps": shown.steps,
        "verified_steps": shown.verified_steps,
        "max_abs_risk_diff": shown.max_abs_risk_diff,
        "seconds": round(seconds, 1),
        "api_url": local_api_url(settings),
        "dashboard_url": dashboard_url(settings),
    }


def say_what_to_see(shown: Shown, settings: Settings, token: str) -> None:
    """Print the verdict and the addresses of what can be looked at."""
    sign = "[green]✓[/]" if shown.holds else "[red]✗[/]"
    say(f"{sign} {shown.verified_steps} of {shown.steps} training steps verified against their analysis batch")
    url, analysis, training = dashboard_url(settings), shown.analysis["id"], shown.training["id"]
    console.print()
    say_addresses(settings, token)
    say(f"\n[bold]Heatmap[/]    {url}/analysis?id={analysis}")
    say(f"[bold]Training[/]   {url}/training?id={training}&step=1")
    say(f"[bold]Batch[/]      {url}/batch?analysis={analysis}&batch={shown.first_step['batch_idx']}   (of that step)")


def demo(
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop the services afterwards and print one JSON object as the last line.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the model, the batch plan and the training.")] = 0,
) -> None:
    """Show the whole path: build a small MoE model, analyse it, train its unsafe experts, verify every step.

    Starts the three services, then does through the public API what a user would do. Stays until Ctrl-C, so that you
    can look around. Exit status 0 only if every training step was verified against its analysis batch.

    Example: `routeprint demo --exit`
    """
    started = time.monotonic()
    settings = get_settings()
    shown: Shown | None = None
    token = read_token(settings)
    check_ports(settings)
    with ended_by_signal():
        build_model(settings, seed)
        since = utcnow()
        with console.status("starting") as status, services_up(settings, token, status.update) as running:
            status.stop()
            say("[green]✓[/] backend, worker and dashboard are up")
            with Client(local_api_url(settings), token) as api:
                shown = run_path(api, seed, since)
            seconds = time.monotonic() - started
            say_what_to_see(shown, settings, token)
            if not exit_:
                say("\nCtrl-C stops all three.")
                watch(running)
    if shown is None:
        raise typer.Exit(130)
    if not shown.holds:
        errors.print("The demonstration did not hold: not every training step was verified.")
        raise typer.Exit(1)
    if exit_:
        typer.echo(json.dumps(summary(shown, settings, seconds)))
