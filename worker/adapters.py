"""Low-rank adapters (LoRA) on the chosen experts only, through peft: less state to keep than whole rows.

peft's `target_parameters` puts one pair of factors on a fused tensor of all its experts. Here the factors of every
expert that is not chosen are zero, the optimizer owns the chosen experts' slices of them and nothing else
(row_adamw.py), and merging touches the chosen experts' rows alone: everything else stays bit for bit what it was. Not
covered: layouts that peft cannot adapt expert by expert (abilities.py says which), routers, biases of experts, sharded
weights.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.domain.errors import InvalidInput, NotSupported
from worker.abilities import is_matrix, why_no_adapter
from worker.checkpoints import publish, staging
from worker.masking import ExpertChoice, Learn, LearningWeights, check_experts
from worker.row_adamw import OwnedColumns, OwnedRows
from worker.sites import ExpertTensor, MoeSite

ADAPTER_DIR = "adapter"
"""Name of the adapter's folder inside a run's folder."""
_NAME = "default"
"""peft's own name of a model's first adapter; its files do not hold it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A pair of factors of this rank for every matrix of every chosen expert; their product times alpha / rank is
    added to it.
    """

    rank: int = 8
    alpha: float = 16.0

    @classmethod
    def of(cls, value: "Adapter | Mapping[str, Any] | None") -> "Adapter | None":
        """Read {"rank", "alpha"}; None for no adapter."""
        return value if value is None or isinstance(value, Adapter) else cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    def validate(self) -> None:
        """Raise InvalidInput, naming the field, for numbers that make no adapter."""
        if self.rank < 1:
            raise InvalidInput(f"the adapter's rank is {self.rank}; it must be at least 1.", ("adapter", "rank"))
        if not 0 < self.alpha < math.inf:
            raise InvalidInput(f"the adapter's alpha is {self.alpha}; it must be above 0.", ("adapter", "alpha"))


def check_adapter(adapter: Adapter, mode: str, *, sharded: bool) -> None:
    """Raise InvalidInput, naming the field, for an adapter that could not be trained so."""
    adapter.validate()
    if mode != Learn.SELECTED:
        raise InvalidInput(
            f"an adapter is trained on the chosen experts only, so what learns must be `selected`, not `{mode}`.",
            ("adapter",),
        )
    if sharded:
        raise InvalidInput(
            "an adapter cannot be trained with shard_weights: peft adapts whole tensors of experts. Leave "
            "shard_weights off; processes and micro_batch_size work.",
            ("shard_weights",),
        )


class AdaptedExperts(LearningWeights):
    """What learns when the chosen experts have adapters: their factors. Making one puts the adapters into the model.

    seed: decides the factors' first values, expert by expert, whatever else is chosen. Raises NotSupported, naming the
    experts' class, for a layout peft cannot adapt.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[MoeSite],
        choice: ExpertChoice,
        adapter: Adapter,
        *,
        seed: int = 0,
    ) -> None:
        check_experts(sites, choice.union)
        adapter.validate()
        self.adapter, self._seed = adapter, seed
        self._targets = list(_targets(sites, choice))
        self._peft, self._wrappers = _inject(model, [tensor.name for _, tensor in self._targets], adapter)
        super().__init__(model, sites, choice, Learn.SELECTED)

    def _split(self, sites: Sequence[MoeSite]) -> Iterator[tuple[int, OwnedRows]]:
        """Yield the factors of every adapted tensor, A and B, with the layer they belong to."""
        for site, tensor in self._targets:
            experts = list(self._owned(site, tensor))
            first, second = self._factors(tensor)
            _start(first, second, tensor.n_experts, experts, f"{self._seed}\n{tensor.name}")
            yield site.spec.layer, OwnedRows(first, self.adapter.rank, experts)
            yield site.spec.layer, OwnedColumns(second, tensor.n_experts, experts)

    def _factors(self, tensor: ExpertTensor) -> tuple[nn.Parameter, nn.Parameter]:
        wrapper = self._wrappers[tensor.name]
        return wrapper.lora_A[_NAME].weight, wrapper.lora_B[_NAME].weight

    # --- files

    def save(self, folder: Path) -> None:
        """Write the adapter in peft's own format: adapter_config.json and adapter_model.safetensors."""
        self._peft.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
        config = folder / "adapter_config.json"
        value = json.loads(config.read_text())
        value["target_parameters"].sort()  # a set in peft: the file must be the same every time
        config.write_text(json.dumps(value, indent=2, sort_keys=True))

    def load(self, folder: Path) -> None:
        """Set the factors to what `save` wrote. Raises KeyError unless the names are this adapter's own."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        saved = load_file(folder / "adapter_model.safetensors")
        mine = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        if mine.keys() != saved.keys():
            raise KeyError(f"the adapter is of another run: {sorted(mine.keys() ^ saved.keys())[:5]}")
        with torch.no_grad():
            for name, tensor in mine.items():  # these share the factors' memory
                tensor.copy_(saved[name])

    def publish(self, out_dir: Path, facts: Mapping[str, Any]) -> str:
        """Put the adapter beside the trained model, whole or not at all; return its manifest's SHA-256."""
        folder = staging(out_dir, ADAPTER_DIR)
        self.save(folder)
        return publish(folder, out_dir / ADAPTER_DIR, {"kind": "adapter", "adapter": self.adapter.to_dict(), **facts})

    # --- the end

    @torch.no_grad()
    def merge(self) -> None:
        """Add each chosen expert's product to its own rows and take the adapters out of the model again.

        The sum is peft's own (`get_delta_weight`); rows of experts that were not chosen are never written to.
        """
        for site, tensor in self._targets:
            delta = self._wrappers[tensor.name].get_delta_weight(_NAME)
            for expert in self._owned(site, tensor):
                tensor.parameter[expert] += delta[expert]
        self._peft.unload()


def _targets(sites: Sequence[MoeSite], choice: ExpertChoice) -> Iterator[tuple[MoeSite, ExpertTensor]]:
    """Yield every matrix tensor of the layers that hold chosen experts. Raises NotSupported for other layouts."""
    layers = {layer for layer, _ in choice.union}
    touched = [site for site in sites if site.spec.layer in layers]
    why = why_no_adapter(touched)
    if why is not None:
        raise NotSupported(f"An adapter cannot be trained here: {why} Train whole rows (adapter null).")
    for site in touched:
        for tensor in site.tensors:
            if is_matrix(tensor):
                yield site, tensor


def _inject(model: PreTrainedModel, names: list[str], adapter: Adapter) -> tuple[Any, dict[str, Any]]:
    """Put peft's wrappers around the modules that hold these parameters; return peft's model and {name: wrapper}."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import ParamWrapper

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # a scale, whole or not
        target_modules=[],
        target_parameters=names,
        task_type="CAUSAL_LM",
    )
    before = dict(model.named_modules())
    owners = {id(before[name.rpartition(".")[0]]): name.rpartition(".")[0] for name in names}
    peft_model = get_peft_model(model, settings)
    # peft names the model by where it lies on this machine; <org>/<name> is what it is called everywhere.
    settings.base_model_name_or_path = "/".join(Path(str(model.name_or_path)).parts[-2:])
    wrappers = {
        f"{owners[id(module.get_base_layer())]}.{module.parameter_name}": module
        for module in model.modules()
        if isinstance(module, ParamWrapper)
    }
    missing = sorted(set(names) - wrappers.keys())
    if missing:
        raise NotSupported(f"peft put no adapter on {missing[0]}: train whole rows (adapter null).")
    return peft_model, wrappers


@torch.no_grad()
def _start(first: Tensor, second: Tensor, n_experts: int, experts: Sequence[int], seed: str) -> None:
    """Set the factors' first values: zero, but for the chosen experts' part of A.

    A [expert * rank, in] is drawn as torch draws a linear layer, one expert at a time, so that an expert starts from
    the same numbers whichever others are chosen, on every process, and whatever was drawn before.
    """
    first.zero_()
    second.zero_()
    each = first.view(n_experts, -1, first.shape[1])
    bound = 1 / math.sqrt(first.shape[1])
    for expert in experts:
        draw = torch.Generator().manual_seed(int.from_bytes(sha256(f"{seed}\n{expert}".encode()).digest()[:8]) >> 1)
        values = torch.rand(each[expert].shape, generator=draw) * (2 * bound) - bound
        each[expert].copy_(values)
