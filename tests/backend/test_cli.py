"""The command line as a person meets it: help with examples, errors as sentences, exit statuses.

What the commands do to a real API is tested by the whole-path test (tests/test_demo.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from backend.cli import app
from backend.commands.data import _export_path, _format, _proposed_meaning
from backend.domain.errors import InvalidInput
from backend.settings import get_settings

COMMANDS = sorted(command.name or "" for command in app.registered_commands)
CONTRACT = {"up", "backend", "worker", "dashboard", "demo", "token", "doctor", "backup", "restore", "export"}
CONTRACT |= {"import", "import-experts", "import-table", "convert-table", "verify", "cancel", "study", "purge"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEPRINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROUTEPRINT_API_URL", "http://127.0.0.1:1")  # nobody listens there
    get_settings.cache_clear()


def _routeprint(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from backend.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_command_of_the_contract_is_there() -> None:
    assert set(COMMANDS) == CONTRACT


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_shows_an_example(command: str) -> None:
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert "Example:" in answer.output
    assert "routeprint" in answer.output.split("Example:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_help_uses_options_that_exist(command: str) -> None:
    group = typer.main.get_command(app)
    known = {option for parameter in group.commands[command].params for option in parameter.opts}  # type: ignore[attr-defined]
    _, _, example = (group.commands[command].help or "").partition("Example: `")  # type: ignore[attr-defined]
    used = {word for word in example.partition(f"routeprint {command}")[2].split("`")[0].split() if word[0] == "-"}
    assert used <= known


def test_an_unreachable_api_is_one_sentence_and_exit_status_1() -> None:
    done = _routeprint("verify", "an_000000000000")
    assert done.returncode == 1
    assert "No Routeprint answers" in done.stderr
    assert "routeprint up" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_id_of_neither_kind_is_said_to_be_none() -> None:
    done = _routeprint("verify", "ds_000000000000")
    assert done.returncode == 1
    assert "'ds_000000000000' is not the id of a run" in done.stderr


def test_a_study_is_verified_by_its_runs() -> None:
    done = _routeprint("verify", "stu_000000000000")
    assert done.returncode == 1
    assert "verify its analysis and its trainings" in done.stderr


def test_a_mistyped_command_is_answered_with_a_suggestion() -> None:
    done = _routeprint("exprot")
    assert done.returncode == 2
    assert "export" in done.stderr


def test_the_token_is_made_once_and_can_be_rotated(tmp_path: Path) -> None:
    first, again = _routeprint("token").stdout, _routeprint("token").stdout
    rotated = _routeprint("token", "--rotate").stdout
    assert first == again != rotated
    assert _routeprint("token").stdout == rotated
    assert (tmp_path / "home" / "token").stat().st_mode & 0o077 == 0


def test_a_token_of_the_environment_wins_and_is_not_rotated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROUTEPRINT_TOKEN", "from-the-environment")
    assert _routeprint("token").stdout == "from-the-environment\n"
    done = _routeprint("token", "--rotate")
    assert (done.returncode, "ROUTEPRINT_TOKEN" in done.stderr) == (1, True)
    assert not (tmp_path / "home" / "token").exists()


def test_doctor_prints_json_that_names_each_check() -> None:
    done = _routeprint("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["Python"]["state"] == "ok"
    assert {"SQLite", "home", "disk", "token", "tables", "queue"} <= set(checks)


def test_import_wants_a_label_for_each_file_or_for_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nHello\n")
    (tmp_path / "b.csv").write_text("prompt\nHello again\n")
    files = (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    done = _routeprint("import", *files, "--name", "x", "--label", "safe")
    assert (done.returncode, "2 files and 1 labels" in done.stderr) == (1, True)


def test_export_does_not_overwrite_a_file(tmp_path: Path) -> None:
    (tmp_path / "risk.csv").write_text("mine")
    done = _routeprint("export", "an_000000000000", "-o", str(tmp_path / "risk.csv"))
    assert (done.returncode, "exists already" in done.stderr) == (1, True)
    assert (tmp_path / "risk.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "given", "form"),
    [("t.parquet", None, "parquet"), ("t.NPY", None, "npy"), ("t", None, "csv"), ("t.txt", None, "csv"),
     ("t.parquet", "jsonl", "jsonl"), ("t.html", None, "html")],
)  # fmt: skip
def test_an_export_has_the_form_that_its_name_says(name: str, given: str | None, form: str) -> None:
    assert _format("an_000000000000", Path(name), given) == form


def test_only_an_expert_set_has_an_esft_form() -> None:
    with pytest.raises(InvalidInput, match="an_000000000000 is none"):
        _export_path("an_000000000000", "esft", "prompt", "mean", None)
    with pytest.raises(InvalidInput, match="not exported as JSON"):
        _format("an_000000000000", Path("t.json"), None)


def test_an_import_stores_what_a_recognised_set_says_of_its_labels() -> None:
    said = {"kind": "other", "safe": "the answer is fine", "unsafe": "the answer is not"}
    assert json.loads(_proposed_meaning([{"label_meaning": None}, {"label_meaning": said}])) == {
        "safe": "the answer is fine",
        "unsafe": "the answer is not",
    }
    assert _proposed_meaning([{"label_meaning": said | {"kind": "refused_complied"}}]) == "refused_complied"
    assert _proposed_meaning([{"label_meaning": None}]) == "harmless_harmful"


def test_a_report_wants_a_file_that_says_its_form(tmp_path: Path) -> None:
    done = _routeprint("export", "an_000000000000", "--report", "-o", str(tmp_path / "report.txt"))
    assert (done.returncode, "end it in .html or .md" in " ".join(done.stderr.split())) == (1, True)
    done = _routeprint("export", "an_000000000000", "--report", "--format", "csv", "-o", str(tmp_path / "report.html"))
    assert done.returncode == 1


def test_a_failed_download_leaves_no_file(tmp_path: Path) -> None:
    done = _routeprint("export", "an_000000000000", "-o", str(tmp_path / "risk.csv"))
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_shell_completes_commands() -> None:
    program = Path(sys.executable).with_name("routeprint")
    environment = os.environ | {
        "_ROUTEPRINT_COMPLETE": "complete_bash",
        "COMP_WORDS": "routeprint ver",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["verify"]


def test_the_token_is_shown_rotated_and_turned_into_a_link_that_does_not_hold_it(tmp_path: Path) -> None:
    first = _routeprint("token").stdout.strip()
    assert first == (tmp_path / "home" / "token").read_text().strip()
    second = _routeprint("token", "--rotate").stdout.strip()
    assert second == _routeprint("token").stdout.strip() != first
    link = _routeprint("token", "--link").stdout.strip()
    assert link.startswith("http://127.0.0.1:8322/open?key=")
    assert second not in link
    assert "\n" not in link
