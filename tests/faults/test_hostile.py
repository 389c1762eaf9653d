"""Files, models and texts that are made to break in: nothing of them runs, fills the memory or becomes markup."""

import contextlib
import csv
import io
import pickle
import resource
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.domain.errors import RouteprintError
from backend.domain.pickled_data import PickleRefused
from backend.domain.pickled_tables import read_table
from backend.domain.prompts import Message
from backend.settings import Settings
from tests import test_secrets
from tests.backend import seeding
from tests.backend.api import test_reports_api as reports
from tests.backend.api.test_hostile_uploads import MOST, Growth, gzip_bomb, one_line, one_record, parquet_bomb
from tests.backend.domain.test_hostile_files import zipped
from tests.backend.domain.test_pickled_tables import harmful
from tests.live import Live
from tests.worker import test_hostile_models as hostile
from tests.worker.tiny import save_tiny, tiny_tokenizer
from worker import templates
from worker.judging import open_judge
from worker.models import model_source, scan_models
from worker.prompts import encode_prompt

TEMPLATES = [hostile.ENDLESS, hostile.SWALLOWS, hostile.ASKED_FOR, hostile.FILLS, hostile.FILLS_SLOWLY, hostile.COUNTS,
             hostile.LONG, hostile.DEEP, hostile.REACHES_OUT]  # fmt: skip
FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(1)", "\t=1+1", '=HYPERLINK("http://evil.example")', "=cmd|' /C calc'!A0"]
STARTS = ("=", "+", "-", "@", "\t", "\r")


def test_no_pickle_runs(attack, api, client, engine, tmp_path: Path) -> None:
    case = attack(
        "hostile pickles",
        "eleven ways to run code on loading, by every protocol, read as tables and sent to the API",
    )
    seeding.add_model(engine)
    marker = tmp_path / "touched"
    for what in harmful(marker).values():
        for protocol in range(6):
            content = pickle.dumps(what, protocol=protocol)
            try:
                read_table(content)
                read = True
            except PickleRefused:
                read = False
            case.attempt(read or marker.exists())
        for name in ("t.pkl", "t.csv", "t.pickle"):
            answer = client.post("/api/v1/risk-tables", files={"file": (name, content)}, data={"name": "t"})
            case.attempt(answer.is_success or marker.exists())
    assert case.zeros


def test_no_bomb_fills_the_memory(attack, tmp_path: Path) -> None:
    case = attack(
        "Parquet, gzip and one-line bombs",
        "and zip files under other names, imported by a real server; refused, and its memory grows by less than 100 MB",
    )
    with Live(tmp_path / "home") as live:
        live.start_backend()
        for number, make in enumerate((one_line, parquet_bomb, gzip_bomb)):
            path = tmp_path / f"bomb-{number}"
            name = make(path)
            growth = Growth(live.processes["backend"].pid)
            with growth.watched(), path.open("rb") as file, case.recovering():
                form = {"name": "x", "label_meaning": "harmless_harmful"}
                answer = live.client.post("/datasets", files={"file": (name, file)}, data=form)
            case.attempt(answer.is_success or growth.own > MOST)
            path.unlink()
        for name in ("a.csv", "a.parquet", "a.jsonl"):
            answer = live.client.post("/datasets", files={"file": (name, zipped(b"prompt,label\n"))}, data=form)
            case.attempt(answer.is_success)
        assert live.get("/datasets")["items"] == []
    assert case.zeros


def test_no_line_of_a_gigabyte_fills_the_memory(attack, tmp_path: Path) -> None:
    case = attack(
        "one line or record of a gigabyte",
        "CSV and JSONL: announced, sent without a length, and 500 MB of it; refused with 413, or with 422 and the "
        "row, and the memory of API and reader grows by less than 100 MB; a gigabyte on disk is read the same way",
    )
    form = {"name": "x", "label_meaning": "harmless_harmful"}
    with Live(tmp_path / "home") as live:
        live.start_backend()
        live.client.timeout = 300
        for make in (one_line, one_record, one_cell):
            name = make(path := tmp_path / "endless", 500 * 2**20)
            growth = Growth(live.processes["backend"].pid)
            with growth.watched(), path.open("rb") as file, case.recovering():
                answer = live.client.post("/datasets", files={"file": (name, file)}, data=form)
            named = answer.status_code == 422 and answer.json()["errors"][0]["loc"]
            case.attempt(not named or growth.own > MOST or growth.child > 3 * MOST)
        for announced in (True, False):
            growth = Growth(live.processes["backend"].pid)
            with growth.watched(), case.recovering():
                said = pour(live, 2**30, announced=announced)
            case.attempt(not said.startswith("HTTP/1.1 413") or growth.own > MOST)
        assert live.get("/datasets")["items"] == []
    for make in (one_line, one_record, one_cell):
        name = make(path, 2**30)
        said, grown = read_apart(path, name)
        case.attempt("longer than" not in said or grown > MOST)
    assert case.zeros


def one_cell(path: Path, size: int) -> str:
    with path.open("wb") as file:
        file.write(b"prompt,label\n")
        for _ in range(size // 2**20):
            file.write(b"x" * 2**20)
    return "a.csv"


def pour(live: Live, size: int, *, announced: bool) -> str:
    """Send a multipart body of one endless line until the server answers; return its status line."""
    head = "Content-Type: multipart/form-data; boundary=b\r\n"
    head += f"Content-Length: {size}\r\n" if announced else "Transfer-Encoding: chunked\r\n"
    token = live.client.headers["Authorization"]
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nprompt,label\n'
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection:
        address = f"POST /api/v1/datasets HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n"
        connection.sendall(f"{address}Authorization: {token}\r\n{head}\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for number in range(size // 2**20):
                if select.select([connection], [], [], 0)[0]:
                    break
                piece = part if number == 0 else b"x" * 2**20
                connection.sendall(piece if announced else b"%x\r\n%b\r\n" % (len(piece), piece))
        return connection.recv(4096).decode().partition("\r\n")[0]


READ = """
import resource, sys
from pathlib import Path
from backend.domain.errors import ImportRefused
from backend.domain.prompts import LabelMeaning
from backend.domain.reading import SourceFile, check_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_files([SourceFile(Path(sys.argv[1]), sys.argv[2])], LabelMeaning.from_text("harmless_harmful"))
except ImportRefused as error:
    print(error.problems[0].message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def read_apart(path: Path, name: str) -> tuple[str, int]:
    """Read a file in a process of its own; return what it says, and by how many bytes its memory grew."""
    command = [sys.executable, "-c", READ, str(path), name]
    *said, kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return " ".join(said), 1024 * int(kilobytes)


def test_no_chat_template_runs_on_or_reaches_out(attack, monkeypatch: pytest.MonkeyPatch) -> None:
    case = attack(
        "hostile chat templates",
        "endless, memory-filling, recursive, and one that reaches for Python's own objects; refused within "
        "bounded time and memory",
    )
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    for template in TEMPLATES:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            encode_prompt(tokenizer, (Message("user", "Hi there"),))
            refused = False
        except RouteprintError:
            refused = True
        spent, kilobytes = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        case.attempt(not refused or spent > 10 or kilobytes > 600 * 1024)
    assert case.zeros


def test_no_model_is_read_outside_the_models_folder(attack, tmp_path: Path) -> None:
    case = attack(
        "models linked or named out of the models folder",
        "links to a folder outside, a file of it, judges and names of the hub that lead out",
    )
    elsewhere = save_tiny(tmp_path / "elsewhere", "llama")
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    (models / "link").symlink_to(elsewhere)
    (models / "org" / "link").symlink_to(elsewhere)
    half = save_tiny(models / "half", "olmoe")
    (half / "model.safetensors").unlink()
    (half / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
    for found in scan_models(models):
        case.attempt(found.supported or found.weights_digest is not None)
    for name in ("link", "../elsewhere", "org/link", str(elsewhere)):
        wanted = {"kind": "classifier", "model": name, "label": "x", "reads": "answer"}
        case.attempt(opens(open_judge, wanted, Settings(home=tmp_path), "cpu"))
    for name in ("../../etc", "http://evil.example/m", "a/b/c", "/etc/passwd", "a/..", "org/m\n"):
        case.attempt(opens(model_source, f"hub:{name}", allow_hub=True))
    assert case.zeros


def opens(what: Any, *args: Any, **more: Any) -> bool:
    """Return whether something is opened, and not refused in words."""
    try:
        what(*args, **more)
    except RouteprintError:
        return False
    return True


def test_no_cell_of_a_table_is_a_formula(attack, api, client, engine) -> None:
    case = attack(
        "formulas in tables",
        "prompts, names and sources that begin like formulas, read back as CSV from every table that shows them",
    )
    seeding.add_model(engine)
    rows = seeding.prompt_rows(8)
    for place, row in enumerate(rows):
        row |= {
            "prompt": f"{FORMULAS[place // 2 % len(FORMULAS)]} {place}",
            "category": FORMULAS[place // 2 % 4],
            "source": "=1+1",
        }
    form = {"name": "=1+1", "label_meaning": "harmless_harmful"}
    dataset = api.post("/datasets", 201, files={"file": ("p.jsonl", seeding.jsonl(rows))}, data=form)["id"]
    analysis = api.analysis(dataset, name="=1+1")["id"]
    seeding.measure(engine, analysis)
    paths = client.get("/openapi.json").json()["paths"]
    takes_csv = [path for path, methods in paths.items() if "csv" in str(methods.get("get", {}).get("parameters"))]
    filled = {"{dataset_id}": dataset, "{analysis_id}": analysis, "{batch_idx}": "0", "{layer}": "1", "{expert}": "0"}
    read = 0
    for path in takes_csv:
        address = path
        for name, value in filled.items():
            address = address.replace(name, value)
        answer = client.get(address, params={"format": "csv"})
        if "{" in address or not answer.is_success:
            continue
        read += 1
        for cells in csv.reader(io.StringIO(answer.text)):
            for cell in cells:
                case.attempt(cell.startswith(STARTS) and not is_number(cell))
    assert read >= 2, takes_csv
    assert case.zeros


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_no_prompt_becomes_markup(attack, api, engine) -> None:
    case = attack(
        "markup in prompts and names",
        "scripts, images, links, bidirectional marks in prompts, names, groups and models, in both forms of the report",
    )
    found = reports.hostile(api, engine)
    page = reports.Page(content := reports.written(found, examples=True))
    for tag in ("script", "iframe", "object", "embed", "form", "base"):
        case.attempt(tag in page.tags)
    for load in page.loads:
        case.attempt(not load.startswith(("data:", "#")))
    case.attempt("<script" in content or "\u202e" in content)
    for token in reports.markdown_tokens(reports.written(found, "md", examples=True)):
        case.attempt(token.type in ("html_block", "html_inline", "link_open"))
    assert "<script>alert(1)</script>" in page.text, "it is there, as text"
    assert case.zeros


def test_no_secret_is_found_again(attack, tmp_path: Path) -> None:
    case = attack(
        "secrets in databases, logs, answers",
        f"{len(test_secrets.CANARIES)} canaries (token, hub token, judge's key, a password in a URL) looked "
        "for in whatever real services wrote, answered or printed",
    )
    case.tries = len(test_secrets.CANARIES)
    try:
        test_secrets.test_no_secret_is_written_answered_or_printed(tmp_path)
    except AssertionError:
        case.let_in += 1
        raise
    assert case.zeros
