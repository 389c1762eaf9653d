"""Tables of analyses, trainings, evaluations, studies and jobs, each row a link."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dashboard import address, words
from dashboard.client import Json
from dashboard.table import Column, Row, Ticks, cell, table


def progress_cell(progress: Json) -> Json:
    """Return what is done of how many, with its bar."""
    total = progress["total"] or 0
    part = progress["done"] / total if total else 0.0
    return cell(f"{words.count(progress['done'])} / {words.count(total)}" if total else "–", part)


def status_cell(run: Json) -> Json:
    """Return a run's status; its error is the tooltip."""
    return cell(words.state(run["status"]), run["status"], run.get("error"))


def of_study(run: Json) -> bool:
    """Tell whether a study made this run."""
    return any(map(is_study_id, run["tags"]))


def is_study_id(tag: str) -> bool:
    """Tell whether a tag is the mark that a study puts on its runs: its id."""
    return tag.startswith("stu_")


def name_cell(run: Json) -> Json:
    """Return the cell with a run's name and tags; its id is the tooltip."""
    tags = ", ".join(tag for tag in run["tags"] if not is_study_id(tag))
    return cell(f"{run['name']} · {tags}" if tags else run["name"], hint=run["id"])


def when_cell(stamp: str | None) -> Json:
    """Return how long ago something was."""
    return cell(words.ago(stamp), stamp or "", stamp)


def linked(
    view: str,
    columns: Sequence[Column],
    found: Sequence[Json],
    cells: Callable[[Json], dict[str, Json]],
    *,
    key: str,
    label: str,
    can_tick: Callable[[Json], bool] = lambda _: True,
    ticks: Ticks | None = None,
    selected: str | None = None,
    kept: Mapping[str, str | None] = MappingProxyType({}),
) -> None:
    """Show a table whose rows lead to a view. kept: parameters of the address that a link leaves as they are."""
    rows = [Row(one["id"], address.href(view, id=one["id"], **kept), cells(one), tick=can_tick(one)) for one in found]
    opened = table(columns, rows, key=key, label=label, selected=selected, ticks=ticks)
    if opened:
        address.go(view, id=opened, **kept)


ANALYSIS_COLUMNS = (
    Column("name", "Analysis"),
    Column("status", "Status", kind="status"),
    Column("model", "Model", kind="code", minor=True),
    Column("dataset", "Prompt set", minor=True),
    Column("batches", "Batches", "right", "part"),
    Column("created", "Started", "right", minor=True),
)


def analyses(rows: Sequence[Json], *, key: str, ticks: Ticks | None = None) -> None:
    """Show analyses as a table of links; finished ones can be ticked."""

    def cells(a: Json) -> dict[str, Json]:
        return {
            "name": name_cell(a),
            "status": status_cell(a),
            "model": cell(a["model"]),
            "dataset": cell(a["dataset_name"]),
            "batches": progress_cell(a["progress"]),
            "created": when_cell(a["created_at"]),
        }

    linked(
        "analysis",
        ANALYSIS_COLUMNS,
        rows,
        cells,
        key=key,
        label="Analyses",
        can_tick=lambda a: a["status"] == "succeeded",
        ticks=ticks,
    )


TRAINING_COLUMNS = (
    Column("name", "Training"),
    Column("status", "Status", kind="status"),
    Column("what", "What learns", minor=True),
    Column("analysis", "Analysis", minor=True),
    Column("steps", "Steps", "right", "part"),
    Column("verified", "Verified", "right"),
    Column("loss", "Last loss", "right"),
    Column("created", "Started", "right", minor=True),
)


def what_learns(training: Json) -> str:
    """Say what a training changes: 'experts of <set>', 'everything but …', 'the whole model'."""
    name = training.get("expert_set_name") or "the expert set"
    adapter = training["params"].get("adapter")
    low_rank = f"adapters (rank {adapter['rank']}) of " if adapter else ""
    routers = " and, in turn, the routers" if training["params"].get("routers") else ""
    return {
        "selected": f"only {low_rank}{name}{routers}",
        "all_but_selected": f"all but {name}",
        "full": "the whole model",
    }[training["mode"]]


def verified_words(training: Json) -> str:
    """'72 of 72', or why there is nothing to verify."""
    if training["params"].get("preserve_batches") is False:
        return "no batches kept"
    return f"{words.count(training['n_verified'])} of {words.count(training['n_recorded'])}"


def trainings(rows: Sequence[Json], *, key: str, ticks: Ticks | None = None) -> None:
    """Show trainings as a table of links; those with a step can be ticked."""

    def cells(t: Json) -> dict[str, Json]:
        return {
            "name": name_cell(t),
            "status": status_cell(t),
            "what": cell(what_learns(t)),
            "analysis": cell(t["analysis_name"]),
            "steps": progress_cell(t["progress"]),
            "verified": cell(verified_words(t), t["n_verified"]),
            "loss": cell(words.number(t["final_loss"]), t["final_loss"]),
            "created": when_cell(t["created_at"]),
        }

    linked(
        "training",
        TRAINING_COLUMNS,
        rows,
        cells,
        key=key,
        label="Trainings",
        can_tick=lambda t: t["n_recorded"] > 0,
        ticks=ticks,
    )


EVALUATION_COLUMNS = (
    Column("name", "Evaluation"),
    Column("status", "Status", kind="status"),
    Column("what", "Intervention", minor=True),
    Column("set", "Expert set"),
    Column("sample", "Prompts"),
    Column("arms", "Arms", "right", "part"),
    Column("created", "Started", "right", minor=True),
)


def evaluations(rows: Sequence[Json], *, key: str) -> None:
    """Show evaluations as a table of links."""

    def cells(e: Json) -> dict[str, Json]:
        sample = "in-sample" if e["overlap"]["in_sample"] else "new"
        return {
            "name": name_cell(e),
            "status": status_cell(e),
            "what": cell(e["intervention"]),
            "set": cell(e["expert_set_name"] or "–"),
            "sample": cell(f"{e['n_safe'] + e['n_unsafe']}, {sample}"),
            "arms": cell(f"{e['n_finished']} / {e['n_arms']}", e["n_finished"] / max(1, e["n_arms"])),
            "created": when_cell(e["created_at"]),
        }

    linked("evaluation", EVALUATION_COLUMNS, rows, cells, key=key, label="Evaluations")


STUDY_COLUMNS = (
    Column("name", "Study"),
    Column("status", "Status", kind="status"),
    Column("set", "Expert set", minor=True),
    Column("seeds", "Seeds", "right"),
    Column("runs", "Runs", "right", "part"),
    Column("verdict", "Answer", minor=True),
    Column("created", "Started", "right", minor=True),
)
STUDY_ANSWERS = {"shown": "shown", "not_shown": "not shown", "untested": "not tested"}


def studies(rows: Sequence[Json], *, key: str) -> None:
    """Show studies as a table of links."""

    def cells(one: Json) -> dict[str, Json]:
        n_seeds = len(one["params"]["seeds"])
        return {
            "name": name_cell(one),
            "status": status_cell(one),
            "set": cell(one["expert_set_name"]),
            "seeds": cell(n_seeds, n_seeds),
            "runs": progress_cell(one["progress"]),
            "verdict": cell(STUDY_ANSWERS[one["verdict"]["tone"]] if one["verdict"] else "–"),
            "created": when_cell(one["created_at"]),
        }

    linked("study", STUDY_COLUMNS, rows, cells, key=key, label="Studies")


JOB_COLUMNS = (
    Column("subject", "Work"),
    Column("kind", "Kind"),
    Column("status", "Status", kind="status"),
    Column("progress", "Progress", "right", "part"),
    Column("eta", "Left", "right", minor=True),
    Column("created", "Submitted", "right", minor=True),
)


def jobs(rows: Sequence[Json], *, key: str, selected: str | None = None, **kept: str | None) -> None:
    """Show jobs as a table of links. kept: parameters of the address that a link leaves as they are."""

    def cells(j: Json) -> dict[str, Json]:
        return {
            "subject": cell(j.get("subject_name") or j["kind"], hint=j["id"]),
            "kind": cell(j["kind"]),
            "status": status_cell(j),
            "progress": progress_cell(j["progress"]),
            "eta": cell(_eta(j)),
            "created": when_cell(j["created_at"]),
        }

    linked("jobs", JOB_COLUMNS, rows, cells, key=key, label="Jobs", selected=selected, kept=kept)


def _eta(run: Json) -> str:
    eta = run["progress"].get("eta_seconds")
    return words.duration(eta) if run["status"] == "running" and eta is not None else "–"
