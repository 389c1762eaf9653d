"""Each process keeps a part of every weight (FSDP2), for models larger than one GPU.

A parameter is cut along its first axis, which in fused expert tensors holds the experts: each process then owns whole
experts, and trains those of them that learn. Weights are put together layer by layer while a layer computes. Seen on
CPUs (gloo) only, never on a GPU. Not covered: loading a model that no machine's main memory holds.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, device: str) -> None:
    """Cut every parameter of a model into one part per process, and put this process' parts on its device."""
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, not means: the loss is divided by the whole batch's tokens
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    """Return True if this process holds parts of the weights only."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, sharing its memory; the tensor itself if it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(parameter: Tensor) -> tuple[int, int]:
    """Return which rows of a parameter's first axis this process holds, as (start, stop)."""
    n = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, n
    mesh = parameter.device_mesh
    each = -(-n // mesh.size())
    start = min(mesh.get_local_rank() * each, n)
    stop = min(start + each, n)
    assert stop - start == parameter.to_local().shape[0]
    return start, stop


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Put the weights together in main memory. All processes must call it; all get them."""
    return {name: _whole(tensor) for name, tensor in model.state_dict().items()}


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


@torch.no_grad()
def load_whole_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load whole weights; each process keeps its part. Raises KeyError unless the names are the model's own."""
    mine = model.state_dict()
    if mine.keys() != state.keys():
        raise KeyError(f"the weights are of another model: {sorted(mine.keys() ^ state.keys())[:5]}")
    for name, tensor in mine.items():
        if isinstance(tensor, DTensor):
            value = state[name].to(device=tensor.device, dtype=tensor.dtype)
            tensor.copy_(distribute_tensor(value, tensor.device_mesh, tensor.placements))
        else:
            tensor.copy_(state[name])
