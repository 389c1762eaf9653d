"""What tests of the worker share: one thread, a small study in a home folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.settings import get_settings
from tests.worker.study import Study, open_study


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Return prompts and a tiny model in a home folder of their own; the settings are those of a CPU worker there."""
    monkeypatch.setenv("ROUTEPRINT_HOME", str(tmp_path))
    monkeypatch.setenv("ROUTEPRINT_DEVICE", "cpu")
    get_settings.cache_clear()
    yield open_study(tmp_path)
    get_settings.cache_clear()
