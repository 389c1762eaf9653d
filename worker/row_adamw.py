"""AdamW over whole parameters and over single experts' rows of fused parameters, in one optimizer.

State exists for owned rows only, and a step touches active rows only: momentum and weight decay never reach the rest.
Each expert counts its own steps, so an expert that is active in few steps is corrected for exactly those.
Not covered: which rows are owned and active (masking.py).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from backend.domain.errors import NotSupported
from backend.domain.turns import Turn
from worker.sharding import held, local

_NARROW = (torch.bfloat16, torch.float16)


class OwnedRows:
    """The experts of one fused parameter that learn. `active`: those of them that learn in the present step.

    parameter: experts along its first axis, `rows` rows each; expert e owns `parameter[e * rows : (e + 1) * rows]`.
    Of a sharded parameter, a process owns the experts whose rows it holds. wanted: the experts that learn anywhere.
    Raises NotSupported if an expert's rows would lie on two processes.
    """

    def __init__(self, parameter: torch.nn.Parameter, rows: int, experts: Iterable[int]) -> None:
        self.parameter, self.rows = parameter, rows
        self.wanted = tuple(sorted(experts))
        self._start, stop = held(parameter)
        if self._start % rows or stop % rows:
            raise NotSupported(
                f"a fused parameter of shape {tuple(parameter.shape)} holds {rows} rows per expert, and sharding would "
                "cut an expert in two: train with whole weights, or with another number of processes."
            )
        self.experts = tuple(e for e in self.wanted if self._start <= e * rows < stop)
        self.active: tuple[int, ...] = self.experts

    def of(self, tensor: Tensor, expert: int) -> Tensor:
        """Return an expert's rows of a tensor shaped like the parameter, as a view."""
        first = expert * self.rows - self._start
        return local(tensor)[first : first + self.rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one expert's part."""
        return (self.rows, *self.parameter.shape[1:])

    def weights(self) -> list[Tensor]:
        """Return the active experts' weights, as views."""
        return [self.of(self.parameter.detach(), expert) for expert in self.active]

    def gradients(self) -> list[Tensor]:
        """Return the active experts' gradients, as views; empty where nothing flowed back."""
        grad = self.parameter.grad
        return [] if grad is None else [self.of(grad, expert) for expert in self.active]


class OwnedColumns(OwnedRows):
    """The same of a matrix [out, rank * n_experts] whose columns expert, expert + n_experts, ... belong to an expert.

    So peft lays out the second factors of an adapter on all experts of a tensor.
    """

    def __init__(self, parameter: torch.nn.Parameter, n_experts: int, experts: Iterable[int]) -> None:
        super().__init__(parameter, parameter.shape[0], ())
        self.n_experts = n_experts
        self.wanted = self.experts = self.active = tuple(sorted(experts))

    def of(self, tensor: Tensor, expert: int) -> Tensor:
        """Return an expert's columns of a tensor shaped like the parameter, as a view."""
        return tensor[:, expert :: self.n_experts]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one expert's part, [out, rank]."""
        return (self.rows, self.parameter.shape[1] // self.n_experts)


class RowAdamW(torch.optim.Optimizer):
    """AdamW (decoupled weight decay) whose `rows` parameters are updated expert by expert, in place.

    whole: parameters that learn entirely. rows: fused parameters of which some experts learn.
    decayed: whether weight decay applies to a parameter. routers: parameters in a group of their own, with a learning
    rate of their own and no weight decay. Rows of 16-bit parameters keep a 32-bit copy in the state,
    so that small steps are not rounded away.
    After: Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019 (the update itself is torch's).
    """

    def __init__(
        self,
        whole: Sequence[torch.nn.Parameter],
        rows: Sequence[OwnedRows],
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decayed: Callable[[torch.nn.Parameter], bool] = lambda _: True,
        routers: Sequence[OwnedRows] = (),
        router_lr: float | None = None,
    ) -> None:
        self._rows = {id(owned.parameter): owned for owned in (*rows, *routers)}
        groups: list[dict[str, Any]] = []
        for wanted in (True, False):
            decay = weight_decay if wanted else 0.0
            plain = [p for p in whole if decayed(p) is wanted]
            fused = [owned for owned in rows if decayed(owned.parameter) is wanted]
            groups.append({"params": plain, "weight_decay": decay, "experts": None})
            groups.append(
                {
                    "params": [owned.parameter for owned in fused],
                    "weight_decay": decay,
                    "experts": [list(owned.experts) for owned in fused],
                }
            )
        groups.append(
            {
                "params": [owned.parameter for owned in routers],
                "weight_decay": 0.0,
                "experts": [list(owned.experts) for owned in routers],
                "lr": lr if router_lr is None else router_lr,
                "routers": True,
            }
        )
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every whole parameter with a gradient, and the active rows of every fused one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = _Update()
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["experts"] is None:
                    update.add(local(parameter.detach()), local(parameter.grad), self._whole_state(parameter))
                else:
                    self._add_rows(update, self._rows[id(parameter)])
            update.apply(group)
        return loss

    def _whole_state(self, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(local(parameter.detach()))
            state["exp_avg_sq"] = torch.zeros_like(local(parameter.detach()))
        return state

    def _row_state(self, owned: OwnedRows) -> dict[str, Tensor]:
        """Return the state of a fused parameter. step: [owned]; all others: [owned, *shape of one expert's part]."""
        parameter = owned.parameter
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            shape = (len(owned.experts), *owned.shape)
            narrow = parameter.dtype in _NARROW
            dtype = torch.float32 if narrow else parameter.dtype
            state["step"] = torch.zeros(len(owned.experts), dtype=torch.float32)
            state["exp_avg"] = torch.zeros(shape, dtype=dtype, device=parameter.device)
            state["exp_avg_sq"] = torch.zeros(shape, dtype=dtype, device=parameter.device)
            if narrow:
                state["master"] = torch.zeros(shape, dtype=dtype, device=parameter.device)
                for place, expert in enumerate(owned.experts):
                    state["master"][place] = owned.of(parameter.detach(), expert).float()
        return state

    def _add_rows(self, update: "_Update", owned: OwnedRows) -> None:
        state = self._row_state(owned)
        place = {expert: i for i, expert in enumerate(owned.experts)}
        for expert, weight, grad in zip(owned.active, owned.weights(), owned.gradients(), strict=True):
            update.add(weight, grad, {name: tensor[place[expert]] for name, tensor in state.items()})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load exactly what `state_dict` gave, 32-bit state of 16-bit rows included.

        Raises ValueError if the state belongs to other experts.
        """
        mine = [group["experts"] for group in self.param_groups]
        theirs = [group["experts"] for group in state_dict["param_groups"]]
        if mine != theirs:
            raise ValueError("the optimizer state belongs to another expert set than the one that is trained")
        super().load_state_dict(state_dict)
        order = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(order):  # torch casts state to the parameter's type: 16 bits
            for name, value in state_dict["state"].get(number, {}).items():
                device = "cpu" if name == "step" else parameter.device
                self.state[parameter][name] = value.detach().clone().to(device)


def learning_rate(optimizer: torch.optim.Optimizer, turn: Turn) -> float:
    """Return the present learning rate of what a step of this kind teaches."""
    of_routers = turn is Turn.ROUTERS
    return next(float(g["lr"]) for g in optimizer.param_groups if bool(g.get("routers")) is of_routers)


class _Update:
    """One call of torch's AdamW over lists of (weight, gradient, state), which may all be views."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.states: list[dict[str, Tensor]] = []
        self.narrow: list[tuple[Tensor, Tensor]] = []

    def add(self, weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        if "master" in state:
            self.narrow.append((weight, state["master"]))
            weight, grad = state["master"], grad.float()
        self.weights.append(weight)
        self.grads.append(grad)
        self.states.append(state)

    def apply(self, group: dict[str, Any]) -> None:
        if not self.weights:
            return
        beta1, beta2 = group["betas"]
        adamw(
            self.weights,
            self.grads,
            [state["exp_avg"] for state in self.states],
            [state["exp_avg_sq"] for state in self.states],
            [],
            [state["step"] for state in self.states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for weight, master in self.narrow:
            weight.copy_(master)
