"""Schemathesis over the whole OpenAPI document, on a real server with one of everything in it.

Its default checks: no server error, no status, header or body that the document does not name; what breaks the schema
is refused; nothing is reachable without the token or after it was deleted. Stateful: answers feed the next requests.
"""

import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from backend import limits
from tests.dashboard.backdrop import TOKEN, fill, serve

CONFIG = Path(__file__).with_name("schemathesis.toml")


def tried(folder: Path, *, phases: str, examples: int, seed: int) -> str:
    """Run Schemathesis against a filled server; return what it said, and fail with it if it found anything."""
    options = [
        "--config-file",
        str(CONFIG),
        "run",
        "--phases",
        phases,
        "--max-examples",
        str(examples),
        "--seed",
        str(seed),
        "--no-shrink",
    ]
    options += ["--continue-on-failure", "--warnings", "off", "--request-timeout", "20", "--no-color"]
    options += ["--suppress-health-check", "all", "--header", f"Authorization: Bearer {TOKEN}"]
    patient = mock.patch.object(limits, "MOST_WRONG", 10**9)  # its probes with wrong tokens shall each meet the route
    with patient, serve(folder / "home") as backdrop:
        fill(backdrop)
        options.append(f"{backdrop.url}/openapi.json")
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
    return done.stdout


@pytest.mark.slow
def test_no_request_breaks_what_the_document_promises(tmp_path: Path) -> None:
    said = tried(tmp_path, phases="examples,coverage,stateful", examples=1, seed=1)
    assert re.search(r"Tested: 1\d\d\b", said), "every operation of the document, more than a hundred"
    assert "No issues found" in said, said[-2000:]


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
def test_no_request_breaks_what_the_document_promises_however_long_it_is_tried(tmp_path: Path, seed: int) -> None:
    assert "No issues found" in tried(tmp_path, phases="examples,coverage,fuzzing,stateful", examples=40, seed=seed)
