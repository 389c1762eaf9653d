import os
import stat
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from worker.memory import DeviceMemory


def test_on_a_cpu_it_is_what_this_process_holds_and_its_children():
    before = DeviceMemory(None).used()
    assert before is not None
    assert before > 0.5 * psutil.Process().memory_info().rss
    hold = "held = b'x' * 2**26; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=PIPE, stdout=PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = DeviceMemory(None).used()
        child.kill()
    assert found is not None
    assert found > before + 2**25


def test_on_a_gpu_it_is_what_nvidias_tool_says_and_nothing_where_there_is_none(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert DeviceMemory("GPU-1").used() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = "--id=GPU-1" ] && echo 512\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert DeviceMemory("GPU-1").used() == 512 * 2**20
    assert DeviceMemory("GPU-2").used() is None


@pytest.mark.skipif(os.name != "posix", reason="the tool here is a shell script")
def test_the_tool_is_asked_again_only_after_some_seconds(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho 1\n")
    tool.chmod(0o700)
    memory = DeviceMemory("GPU-1")
    assert [memory.used() for _ in range(5)] == [2**20] * 5
    assert (tmp_path / "asked").read_text() == "x\n"
