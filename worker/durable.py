"""A Hugging Face trainer whose checkpoints are whole or not there, and come back bit for bit.

The stock one writes in place, and loads fused expert weights back with strict=False, which loses them silently.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from worker.checkpoints import checkpoint_dir, publish, staging, staging_dir, tidy
from worker.ranks import Ranks

KEPT_CHECKPOINTS = 2


class DurableTrainer(Trainer):
    """checkpoint_facts: what a checkpoint's manifest states beside its files, step and world size.

    checkpoint_extras: writes what else a checkpoint holds, a tokenizer say, into its folder. ranks: the processes that
    train together; the first writes weights and optimizer, each its own random state, and only then is it published.
    """

    ranks: Ranks = Ranks()
    checkpoint_extras: Callable[[Path], None] | None = None
    checkpoint_facts: Mapping[str, Any] = {}
    _staged: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staged or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Fill a temporary folder the stock way, then publish it and keep the newest two."""
        out_dir, step = Path(str(self.args.output_dir)), self.state.global_step
        target = checkpoint_dir(out_dir, step)
        if self.ranks.first:
            staging(out_dir, target.name)
        self.ranks.wait()
        self._staged = staging_dir(out_dir, target.name)
        try:
            super()._save_checkpoint(model, trial)
            self.ranks.wait()
            if self.ranks.first:
                facts = {"kind": "checkpoint", "step": step, "world_size": self.ranks.size, **self.checkpoint_facts}
                publish(self._staged / target.name, target, facts)
                tidy(out_dir, KEPT_CHECKPOINTS)
        finally:
            self._staged = None
        self.ranks.wait()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the weights and what goes with them; not the pickled arguments, which name paths of this machine."""
        assert output_dir is not None
        assert isinstance(self.model, PreTrainedModel)
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        if self.checkpoint_extras is not None:
            self.checkpoint_extras(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights through `from_pretrained`, strictly."""
        target = model or self.model
        assert target is not None
        dtype = next(target.parameters()).dtype
        saved = AutoModelForCausalLM.from_pretrained(
            resume_from_checkpoint, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        target.load_state_dict(saved.state_dict(), strict=True)
