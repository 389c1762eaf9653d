"""What training can do with a family's experts and routers beyond plain masking, read from its modules alone.

A scan asks this of a skeleton without weights, so that a training that cannot work is refused when it is submitted; a
worker asks again before the first step. Not covered: whether the model can be measured at all (sites.py, models.py).
"""

from collections.abc import Sequence

from torch import nn

from worker.sites import ExpertTensor, MoeSite

ADAPTER, ROUTERS = "adapter", "routers"


def refusals(sites: Sequence[MoeSite]) -> dict[str, str]:
    """Return {ability: why this model lacks it}; empty where nothing is refused."""
    found = {ADAPTER: why_no_adapter(sites), ROUTERS: why_no_router_training(sites)}
    return {ability: why for ability, why in found.items() if why is not None}


def is_matrix(tensor: ExpertTensor) -> bool:
    """Return True for a tensor of one matrix per expert, [expert, ., .]: what an adapter can hold factors of.

    One number or one row per expert is a bias, and stays as it is under an adapter.
    """
    return tensor.rows == 1 and tensor.parameter.dim() == 3


def why_no_adapter(sites: Sequence[MoeSite]) -> str | None:
    """Return why no low-rank factors can be put on single experts of this model, None if they can."""
    for site in sites:
        for tensor in site.tensors:
            if tensor.rows > 1:
                return (
                    f"{type(site.experts).__name__} keeps all experts of a layer in one matrix "
                    f"({tensor.name.rpartition('.')[2]}, {tensor.rows} rows each) that another module reads; peft "
                    "adapts a parameter only while its own module runs, and would share one factor between all experts."
                )
    return None


def why_no_router_training(sites: Sequence[MoeSite]) -> str | None:
    """Return why the routing distribution of this model cannot be reached, None if it can."""
    for site in sites:
        what = f"{type(site.block).__name__} at {site.spec.site!r}"
        if site.router is None:
            return f"{what} has no router module of its own, so its scores cannot be reached."
        if looks_up(site.router):
            return f"{what} looks its experts up in a table ({type(site.router).__name__}): no score decides."
        if not any(p.dim() == 2 and site.spec.n_experts in p.shape for p in site.router.parameters()):
            return (
                f"the router {type(site.router).__name__} of {what} has no score for each of its "
                f"{site.spec.n_experts} routed experts alone, so it hides the distribution over them."
            )
    return None


def looks_up(router: nn.Module) -> bool:
    """Return True for a router that holds a table of expert numbers, as DeepSeek-V4's first layers do."""
    return any(buffer.dim() == 2 and not buffer.is_floating_point() for buffer in router.buffers())
