"""What a run will take, said before it is started: a range, and what it stands on."""

from html import escape

from dashboard import ui, words
from dashboard.client import Json


def figures(estimate: Json) -> list[tuple[str, str, str]]:
    """Return the facts: time and memory."""
    seconds, memory, worker = estimate["seconds"], estimate["memory_bytes"], estimate["worker_bytes"]
    time = words.about(seconds["low"], seconds["high"]) if seconds else "not known yet"
    shown = [("time, estimated", time, estimate["basis"])]
    if memory:
        of = f"the largest worker has {words.size(worker)}" if worker else "no worker is running"
        shown.append(("memory, estimated", words.sizes(memory["low"], memory["high"]), of))
    return shown


def warn(estimate: Json) -> None:
    """Say so where even the lowest estimate is more than any worker has."""
    memory, worker = estimate["memory_bytes"], estimate["worker_bytes"]
    if memory and worker and memory["low"] > worker:
        said = f"At least {words.size(memory['low'])} are needed, and the largest worker has {words.size(worker)}."
        ui.card(
            "This will hardly fit into memory",
            [escape(said), "Choose a smaller model or a shorter number format, or start a worker on a larger machine."],
            "rp-wrong",
        )
