"""What a training must remember besides its weights, as safetensors and JSON: optimizer, schedule, random state.

The stock trainer pickles all three. Nothing here is pickled, so nothing that is read can run code, and a value that is
neither a tensor nor plain JSON is refused when it is written. Floats come back bit for bit. Not covered: the weights,
and which folder is whole (checkpoints.py).
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSOR = "tensor"


def write_state(state: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write nested mappings and lists of tensors and JSON values as NAME.json, its tensors as NAME.safetensors.

    Keys that are whole numbers stay whole numbers. Raises TypeError for anything that is neither.
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_take_out(state, name, tensors))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(plain)


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Return what `write_state` wrote, tensors on the CPU; tuples come back as lists."""
    tensors = load_file(folder / f"{name}.safetensors")
    return dict(_put_back(json.loads((folder / f"{name}.json").read_text()), tensors))


def random_state() -> dict[str, Any]:
    """Return this process' random state: Python's, NumPy's, torch's, and that of every GPU that it sees."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    inner = {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)), "pos": int(numpy["state"]["pos"])}
    return {
        "python": [version, list(words), gauss],
        "numpy": {"has_gauss": int(numpy["has_gauss"]), "gauss": float(numpy["gauss"]), **inner},
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.random.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set what `random_state` returned, in this process."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    inner = {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]}
    np.random.set_state(
        {"bit_generator": "MT19937", "state": inner, "has_gauss": numpy["has_gauss"], "gauss": numpy["gauss"]}
    )
    torch.random.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.random.set_rng_state_all(state["cuda"])


def _take_out(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value with every tensor moved into `tensors` and named in its place."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}.{path}"  # a path alone might be another's: keys may hold dots
        tensors[name] = value.detach().contiguous().cpu()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"items": [[key, _take_out(one, f"{path}.{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_out(one, f"{path}.{i}", tensors) for i, one in enumerate(value)]
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _put_back(one, tensors) for key, one in value["items"]}
    if isinstance(value, list):
        return [_put_back(one, tensors) for one in value]
    return value
