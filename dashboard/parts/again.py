"""Starting again with the settings of an earlier run: its form opens filled in, every field can be changed."""

from dashboard import address, ui
from dashboard.client import Api, ApiRefused, Json

VIEW = {"analyses": "analysis", "trainings": "training"}


def link(kind: str, run: Json) -> None:
    """Lead to the form, filled in with this run's settings. kind: one of VIEW."""
    address.link("Start again with these settings", VIEW[kind], icon=":material/restart_alt:", again=run["id"])


def given(api: Api, kind: str) -> Json:
    """Return the settings of the run that the address names after `again`; {} where it names none."""
    id_ = address.text("again")
    if id_ is None:
        return {}
    try:
        run = api.get(f"/{kind}/{id_}")
    except ApiRefused as error:
        ui.refused(error)
        return {}
    ui.note(f"Filled in with the settings of “{run['name']}”; change what you like.")
    return dict(run["params"])
