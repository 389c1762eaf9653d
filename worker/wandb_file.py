"""Reads back which steps the files of a Weights & Biases run hold: the library writes them and has no reader."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_OWN_HEAD, _BLOCK, _CHUNK_HEAD = 7, 2**15, 7
_WHOLE, _LAST = 1, 4


def wandb_steps(folder: Path, run_id: str) -> set[int]:
    """Return the steps of all parts of a run: a resumed run has one folder for each time it was started."""
    parts = folder.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb")
    return {int(row["train/global_step"]) for part in parts for row in wandb_rows(part) if "train/global_step" in row}


def wandb_rows(part: Path) -> Iterator[dict[str, float]]:
    """Yield the figures of each step of one file, which may end in the middle of a record.

    The file is a log of protobuf records in blocks, as LevelDB writes its logs: 7 bytes of W&B's own, then chunks of
    (checksum, 2 bytes of length, kind), where kinds 1 and 4 end a record.
    """
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")  # typed, but its messages are made at run time
    for content in _records(part.read_bytes()):
        record = protocol.Record()
        record.ParseFromString(content)
        if record.history.item:
            items = [(item.key or "/".join(item.nested_key), item.value_json) for item in record.history.item]
            yield {name: float(value) for name, value in items if not name.startswith("_")}


def _records(data: bytes) -> Iterator[bytes]:
    at, whole = _OWN_HEAD, b""
    while at + _CHUNK_HEAD <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _CHUNK_HEAD:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + _CHUNK_HEAD : at + _CHUNK_HEAD + length]
        at += _CHUNK_HEAD + length
        if at > len(data) or kind == 0:
            return
        if kind in (_WHOLE, _LAST):
            yield whole
            whole = b""
