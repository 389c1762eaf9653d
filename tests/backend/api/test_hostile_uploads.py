"""Uploads that are made to fill the memory, sent to a real server: refused, with less than 100 MB of growth."""

import gzip
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.live import Live

MOST = 100 * 2**20
LINE = 160 * 2**20


class Growth:
    """How much memory a process took more than before, and the largest of its children at all, while the block ran."""

    def __init__(self, pid: int) -> None:
        self._process, self.own, self.child = psutil.Process(pid), 0, 0

    def _look(self, before: int) -> None:
        self.own = max(self.own, self._process.memory_info().rss - before)
        for child in self._process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                self.child = max(self.child, child.memory_info().rss)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every few milliseconds until the block ends."""
        before, done = self._process.memory_info().rss, threading.Event()

        def look() -> None:
            while not done.wait(0.01):
                self._look(before)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(tmp_path_factory.mktemp("hostile")) as running:
        running.start_backend()
        yield running


@pytest.fixture(scope="module")
def reader(live: Live, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes that the process which reads larger files takes for a harmless one."""
    path = tmp_path_factory.mktemp("harmless") / "x.parquet"
    prompts = [os.urandom(20_000).hex() for _ in range(40)]
    parquet.write_table(pa.table({"prompt": prompts, "label": ["safe", "unsafe"] * 20}), path, compression="none")
    growth = Growth(live.processes["backend"].pid)
    with growth.watched():
        live.client.post("/datasets/preview", files={"file": ("x.parquet", path.read_bytes())}).raise_for_status()
    assert growth.child > 2**24, "the reader was seen at work"
    return growth.child


def one_line(path: Path, size: int = LINE) -> str:
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        for _ in range(size // 2**20):
            file.write(b"x" * 2**20)
        file.write(b'", "label": "safe"}\n')
    return "a.jsonl"


def one_record(path: Path, size: int = LINE) -> str:
    """A CSV record that never ends, of lines and cells that are short enough."""
    with path.open("wb") as file:
        file.write(b'prompt,label\n"a\n')
        for _ in range(size // 2**19):
            file.write(b'","' + b"x" * (2**19 - 4) + b"\n")
    return "a.csv"


def parquet_bomb(path: Path) -> str:
    text = "x" * 2**20
    table = pa.table({"prompt": pa.array([text] * 600), "label": ["safe", "unsafe"] * 300})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    return "a.parquet"


def gzip_bomb(path: Path) -> str:
    out = io.BytesIO()
    with gzip.open(out, "wb") as file:
        for _ in range(512):
            file.write(b"\0" * 2**20)
    path.write_bytes(out.getvalue())
    return "a.csv"


@pytest.fixture(scope="module", params=[one_line, one_record, parquet_bomb, gzip_bomb], ids=lambda made: made.__name__)
def bomb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A file, and the name it is sent under; each is made once."""
    path = tmp_path_factory.mktemp("bomb") / "bomb"
    return request.param(path), path


@pytest.mark.parametrize("address", ["/datasets/preview", "/datasets"])
def test_a_bomb_is_refused_and_the_memory_stays(live: Live, reader: int, bomb: tuple[str, Path], address: str) -> None:
    name, path = bomb
    growth = Growth(live.processes["backend"].pid)
    with growth.watched(), path.open("rb") as file:
        form = {} if address.endswith("preview") else {"name": "x", "label_meaning": "harmless_harmful"}
        answer = live.client.post(address, files={"file": (name, file)}, data=form)
    if address == "/datasets":
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["loc"]
    else:
        assert answer.status_code == 422 or answer.json()["n_problems"], "the preview shows what is wrong"
    assert growth.own < MOST, f"the API: {growth.own / 2**20:.0f} MiB"
    assert growth.child - reader < MOST, f"the reader: {(growth.child - reader) / 2**20:.0f} MiB"
    assert live.get("/datasets")["items"] == []


def test_a_body_that_never_ends_is_not_read_to_its_end(live: Live) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while sent < 256 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    growth = Growth(live.processes["backend"].pid)
    headers = {"content-type": "application/json"}
    with growth.watched(), suppress(httpx.WriteError):  # the server answers, closes and reads no more
        assert live.client.post("/analyses", headers=headers, content=parts()).status_code == 413
    assert growth.own < MOST
    assert live.get("/system")["database"]
