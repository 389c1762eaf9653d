"""A Hugging Face trainer whose checkpoints are whole or not there, and come back bit for bit.

The stock one writes in place, loads fused expert weights back with strict=False, which loses them silently, and
pickles everything but the weights; here the rest is safetensors and JSON (state_files.py).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from worker.adapters import AdaptedExperts
from worker.checkpoints import checkpoint_dir, publish, staging, staging_dir, tidy
from worker.ranks import Ranks
from worker.sharding import is_sharded, load_whole_state, whole_state
from worker.state_files import random_state, read_state, restore_random_state, write_state

KEPT_CHECKPOINTS = 2
"""At least so many while a run goes on: the newest may turn out damaged."""


class DurableTrainer(Trainer):
    """checkpoint_facts: what a checkpoint's manifest states beside its files, step and world size.

    checkpoint_extras: writes what else a checkpoint holds, a tokenizer say, into its folder. ranks: the processes that
    train together; the first writes weights and optimizer, each its own random state, and only then is it published.
    adapted: where only an adapter learns, a checkpoint holds no other weights; the model's come from its own folder.
    kept_checkpoints: how many of the newest stay, at least two while it trains.
    """

    ranks: Ranks = Ranks()
    checkpoint_extras: Callable[[Path], None] | None = None
    checkpoint_facts: Mapping[str, Any] = {}
    adapted: AdaptedExperts | None = None
    kept_checkpoints: int = KEPT_CHECKPOINTS
    _staged: Path | None = None
    _whole: dict[str, Tensor] | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staged or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Fill a temporary folder the stock way, then publish it and keep the newest ones."""
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
                tidy(out_dir, max(self.kept_checkpoints, KEPT_CHECKPOINTS))
        finally:
            self._staged = None
        self.ranks.wait()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights; sharded ones are put together by all processes first."""
        self._whole = whole_state(self.model) if self.model is not None and is_sharded(self.model) else None
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self._whole = None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the weights and what goes with them; not the pickled arguments, which name paths of this machine."""
        assert output_dir is not None
        assert isinstance(self.model, PreTrainedModel)
        if self.adapted is not None:
            self.adapted.save(Path(output_dir))
        else:
            self.model.save_pretrained(output_dir, state_dict=state_dict or self._whole)
        if self.checkpoint_extras is not None:
            self.checkpoint_extras(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights through `from_pretrained`, strictly; an adapter from its own files."""
        if self.adapted is not None:
            self.adapted.load(Path(resume_from_checkpoint))
            return
        target = model or self.model
        assert target is not None
        dtype = next(target.parameters()).dtype
        saved = AutoModelForCausalLM.from_pretrained(
            resume_from_checkpoint, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        if is_sharded(target):
            load_whole_state(target, saved.state_dict())
        else:
            target.load_state_dict(saved.state_dict(), strict=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the optimizer's state: the first process' is everybody's, unless each holds its own part."""
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        if self._own_parts or self.ranks.first:
            write_state(self.optimizer.state_dict(), Path(output_dir), self._optimizer_file)
        if self.ranks.first:
            write_state(self.lr_scheduler.state_dict(), Path(output_dir), "scheduler")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        self.optimizer.load_state_dict(read_state(Path(checkpoint), self._optimizer_file))
        self.lr_scheduler.load_state_dict(read_state(Path(checkpoint), "scheduler"))

    @property
    def _own_parts(self) -> bool:
        """Whether each process holds parts of the weights, and its own part of the optimizer's state."""
        return self.model is not None and is_sharded(self.model)

    @property
    def _optimizer_file(self) -> str:
        return f"optimizer_{self.ranks.rank}" if self._own_parts else "optimizer"

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random state of this process; every process has its own."""
        write_state(random_state(), Path(output_dir), f"random_{self.ranks.rank}")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on with the random state of this process; one that was not there when it was saved keeps its own."""
        if checkpoint is not None and (Path(checkpoint) / f"random_{self.ranks.rank}.json").is_file():
            restore_random_state(read_state(Path(checkpoint), f"random_{self.ranks.rank}"))
