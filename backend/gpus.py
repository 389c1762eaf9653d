"""The GPUs of this machine as NVIDIA's own tool tells of them: the backend loads no torch."""

import shutil
import subprocess
from dataclasses import dataclass

_FIELDS = ("name", "memory.total", "memory.used", "driver_version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in MiB."""

    name: str
    total: int
    used: int
    driver: str


def gpus(patience: float = 10.0) -> list[Gpu] | None:
    """Return the GPUs; None where the tool is not there or does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=patience, text=True).stdout  # noqa: S603 - NVIDIA's own tool
        rows = [[cell.strip() for cell in line.rsplit(",", 3)] for line in said.splitlines() if line.strip()]
        return [Gpu(name, int(total), int(used), driver) for name, total, used, driver in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
