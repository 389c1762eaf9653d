"""A Hugging Face trainer that keeps analysis batches and trains an expert set only.

One optimizer step is one analysis batch, on any number of processes: each takes its share of the batch, the gradients
are added up, and every process takes the same step. Gradient accumulation stays at 1; a batch too large for memory is
accumulated inside itself (micro_batches.py). The data loader is our own: accelerate's prepared one drops a short batch
and resumes in the wrong order. Not covered: checking what a step is given (monitoring.py), the run (training.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from backend.domain.errors import InvalidInput, RouteprintError
from backend.domain.turns import Turn, turn_of
from backend.domain.vocabulary import Expert
from worker.adapters import AdaptedExperts, Adapter, check_adapter
from worker.answer_loss import answer_losses, takes_partial_logits
from worker.durable import DurableTrainer
from worker.examples import BatchCollator, Collated, SampleKey, TrainBatch
from worker.masked_routing import MaskedRouting
from worker.masking import ExpertChoice, Learn, LearningWeights
from worker.micro_batches import MicroBatches, OutOfMemory, RandomState, give_memory_back, idle_part, is_out_of_memory
from worker.ranks import Ranks
from worker.router_steps import PairedRouting, halves, teach_routers
from worker.row_adamw import learning_rate
from worker.runs import TrainingDiverged
from worker.sampling import BatchPreservingSampler, Rows, ShuffledSampler
from worker.sharding import is_sharded
from worker.sites import MoeSite, find_sites
from worker.steps import StepFacts, check_rows, divergence, open_step, replicas_differ
from worker.turns import Routers, router_parameters


class ReplicasDiffer(RouteprintError):
    """Processes that train together hold different weights."""


class ExpertMaskingTrainer(DurableTrainer):
    """Trains the weights of an expert set (or all but them, or all) in whole analysis batches; loss on answers only.

    train_dataset: rows of worker.examples, e.g. from `create_batch_aware_dataset`. experts: pairs (layer, expert), or
    {batch_id: pairs}. mode: `selected`, `all_but_selected`, `full`. routing: `free` or `masked`.
    adapter: {"rank", "alpha"} to train low-rank adapters of the chosen experts instead of their rows.
    routers: {"learning_rate"} to teach the routers too, every second step; `batches` then says which samples are
    counterparts (`TrainBatch.pairs`). preserve_batches=False is the reshuffled baseline. micro_batch_size: samples that
    a process puts into one forward; it is halved where memory runs out, and then `on_note` is called with
    ("micro_batch", what happened).
    batch_size: that of the analysis; None: `args.per_device_train_batch_size` times the processes. Auxiliary router
    losses are never added, and router jitter is off. Checkpoints are written whole or not at all, resume bit for bit,
    and load with stock `from_pretrained`. Raises InvalidInput for arguments under which a step would not be a batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: Rows,
        *,
        experts: Iterable[Expert] | Mapping[str, Iterable[Expert]] | None = None,
        mode: str = Learn.SELECTED,
        adapter: Adapter | Mapping[str, Any] | None = None,
        routers: Routers | Mapping[str, Any] | None = None,
        batches: Sequence[TrainBatch] = (),
        routing: str = "free",
        sites: Sequence[MoeSite] | None = None,
        shuffle_batches: bool = True,
        preserve_batches: bool = True,
        batch_size: int | None = None,
        micro_batch_size: int | None = None,
        data_collator: Callable[[Sequence[Any]], dict[str, Any]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        facts: Mapping[str, Any] | None = None,
        on_note: Callable[[str, str], None] = lambda _kind, _text: None,
        **trainer: Any,
    ) -> None:
        _check_arguments(args)
        if data_collator is None:
            pad = model.config.pad_token_id
            data_collator = BatchCollator(pad if isinstance(pad, int) else 0)
        quiet_routers(model)
        choice = ExpertChoice.of(experts)
        sites = find_sites(model) if sites is None else sites
        self.routers = Routers.of(routers)
        of_routers = router_parameters(sites) if self.routers else []
        self.weights: LearningWeights
        self.adapted = _adapted(model, sites, choice, mode, Adapter.of(adapter), args.seed)
        self.weights = self.adapted or LearningWeights(model, sites, choice, Learn(mode), of_routers)
        self.paired = PairedRouting.of(sites, batches) if self.routers else None
        self.masked_routing = MaskedRouting(sites, choice) if routing == "masked" else None
        self.preserve_batches, self.shuffle_batches = preserve_batches, shuffle_batches
        self.batch_size, self.on_note = batch_size, on_note
        self.sharded = is_sharded(model)
        self.checkpoint_facts = dict(facts or {})
        self.step_facts: StepFacts | None = None
        self.batch_sampler: BatchPreservingSampler | ShuffledSampler | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,
            callbacks=[_StepCallback(self), *callbacks],  # a step is recorded before anything else hears of it
            **trainer,
        )
        self.loss_is_scaled_for_ga = True
        self.ranks = Ranks(self.args.process_index, self.args.world_size)
        self.micro = MicroBatches(micro_batch_size, self.args.per_device_train_batch_size)
        self._partial_logits = takes_partial_logits(model)

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; it leaves the model as it is, since gradients are added up here (ranks.py)."""
        super().create_accelerator_and_postprocess()
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    # --- data: our own loader, never accelerate's

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a plain loader over whole batches; each process draws its own share of every batch."""
        assert self.train_dataset is not None
        size = self.batch_size or self.args.per_device_train_batch_size * self.args.world_size
        split = {"seed": self.args.seed, "rank": self.args.process_index, "world_size": self.args.world_size}
        rows: Any = self.train_dataset
        if self.preserve_batches:
            self.batch_sampler = BatchPreservingSampler(rows, size, self.shuffle_batches, **split)
        else:
            self.batch_sampler = ShuffledSampler(rows, size, **split)
        return DataLoader(
            rows,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),  # its own: drawing batches leaves the run's random state alone
        )

    # --- weights

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the AdamW that owns only what learns; biases and norms get no weight decay, as in stock Trainer."""
        if self.optimizer is None:
            assert self.model is not None
            decaying = set(self.get_decay_parameter_names(self.model))
            ids = {id(p) for name, p in self.model.named_parameters() if name in decaying}
            self.optimizer = self.weights.optimizer(
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                router_lr=self.routers.learning_rate if self.routers else None,
                decayed=lambda p: id(p) in ids,
            )
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> float:
        return self._norm()

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float:
        """Return what `training_step` measured: the stock way would measure rows that do not learn."""
        return self._norm()

    def _norm(self) -> float:
        return self.step_facts.grad_norm if self.step_facts else math.nan

    # --- one step

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over one whole batch, then clip. Nothing is applied if this raises."""
        batch: Collated = inputs["batch"]
        check_rows(self.state.global_step + 1, batch, len(inputs["input_ids"]))
        facts = self.step_facts = open_step(self.ranks, batch, by_place=self.preserve_batches)
        batch_id = self.begin_step(facts)
        facts.turn = self.turn()
        self.weights.activate(batch_id, facts.turn)
        before = RandomState()
        take = self._pass if facts.turn is Turn.EXPERTS else self._router_pass
        while not take(model, inputs, batch_id, facts):
            self.on_note("micro_batch", self.micro.halve(self.state.global_step + 1))
            before.restore()
        self._close_step(facts)
        return facts.total

    def turn(self) -> Turn:
        """Return what the step that comes teaches."""
        assert self.batch_sampler is not None
        return turn_of(self.state.global_step + 1, len(self.batch_sampler)) if self.routers else Turn.EXPERTS

    def _pass(self, model: nn.Module, inputs: dict[str, Any], batch_id: str | None, facts: StepFacts) -> bool:
        """Forward and backward over this process' share, part by part; False if some process ran out of memory.

        A process without a sample has nothing to do here, and adds nothing to the gradients.
        """
        self.begin_pass(facts)
        fits = True
        parts = list(self.micro.cut(inputs))
        if self.sharded:
            most = max(self.ranks.gather(len(parts)))
            parts += [idle_part(inputs)] * (most - len(parts))
        try:
            with self.masked_routing.step(batch_id) if self.masked_routing and parts else nullcontext():
                for part in parts:
                    facts.total += super().training_step(model, part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.sharded:  # the others wait inside the same forward and cannot be told
                raise OutOfMemory(self.micro.no_room(self.state.global_step + 1)) from None
            fits = False
        return self._fitted(model, all(self.ranks.gather(fits)))

    def _fitted(self, model: nn.Module, everywhere: bool) -> bool:
        """Return whether memory sufficed; where it did not, forget what was computed."""
        if not everywhere:
            model.zero_grad(set_to_none=True)
            give_memory_back()
        return everywhere

    def _router_pass(self, model: nn.Module, inputs: dict[str, Any], batch_id: str | None, facts: StepFacts) -> bool:
        """The same for a step that teaches the routers; routing is free in it, and answers are measured only."""
        self.begin_pass(facts)
        assert self.paired is not None
        assert batch_id is not None
        model.train()

        def forward(part: dict[str, Any]) -> None:
            facts.total += self.compute_loss(model, self._prepare_inputs(part)).detach()

        shares = [list(self.micro.cut(half)) for half in halves(inputs)]
        done = teach_routers(self.paired, batch_id, self.ranks, shares, forward, self.accelerator.backward)
        return self._fitted(model, done)

    def begin_step(self, facts: StepFacts) -> str | None:
        """Return the batch_id whose experts learn in this step; None where a step is no batch."""
        return facts.samples[0].batch_id if self.preserve_batches else None

    def begin_pass(self, facts: StepFacts) -> None:
        """Called before the forwards of a step, and again if they are done anew in smaller parts."""
        facts.parts, facts.total = [], torch.zeros((), device=self.args.device)
        if self.paired is not None:
            self.paired.routing = {}

    def check_step(self, facts: StepFacts) -> None:
        """Called when gradients are there and nothing is applied yet: raise to stop the run before the step."""

    def finish_step(self, facts: StepFacts) -> None:
        """Called after the step was applied and counted in `state.global_step`, before any checkpoint."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the sum of cross-entropy over answer tokens / the answer tokens of the whole step, in float32."""
        batch, labels = inputs["batch"], inputs["labels"]
        self.before_forward(batch.samples, labels)
        facts = self.step_facts
        learning = facts is not None and facts.turn is Turn.ROUTERS
        with self.paired.looking(inputs, learning=learning) if self.paired and facts else nullcontext():
            losses, outputs = answer_losses(model, inputs, partial_logits=self._partial_logits)
        n_tokens = facts.n_answer_tokens if facts else sum(batch.answer_tokens)
        if facts and batch.samples:
            facts.parts.append(losses.detach() / torch.tensor(batch.answer_tokens, device=losses.device))
        loss = losses.sum() / max(n_tokens, 1)
        return (loss, outputs) if return_outputs else loss

    def before_forward(self, samples: Sequence[SampleKey], labels: Tensor) -> None:
        """Called before each forward with the samples its rows claim to be."""

    def _close_step(self, facts: StepFacts) -> None:
        facts.losses = self.in_order(facts, [loss for part in facts.parts for loss in part.tolist()])
        self.check_step(facts)
        facts.loss = math.fsum(self.ranks.gather(float(facts.total)))
        if self.sharded:  # the gradients are summed already, and each process holds its parts of them
            facts.grad_norm = self.weights.clip(self.max_grad_norm, self.ranks)
        else:
            self.weights.add_up(self.ranks)
            facts.grad_norm = self.weights.clip(self.max_grad_norm)
        assert self.optimizer is not None
        facts.learning_rate = learning_rate(self.optimizer, facts.turn)
        if self.paired is not None:
            facts.consistency = self.paired.loss(self.ranks, facts.samples[0].batch_id)
        if not (math.isfinite(facts.loss) and math.isfinite(facts.grad_norm) and math.isfinite(facts.consistency or 0)):
            raise TrainingDiverged(divergence(self.state.global_step + 1, facts))

    def in_order(self, facts: StepFacts, values: list[Any]) -> list[Any]:
        """Gather one value per sample over all processes, in the order of `facts.samples`."""
        gathered = [value for share in self.ranks.gather(values) for value in share]
        return [gathered[i] for i in facts.order]

    # --- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_replicas()
        self.checkpoint_facts = {**self.checkpoint_facts, "micro_batch": self.micro.state()}
        super()._save_checkpoint(model, trial)

    def check_replicas(self) -> None:
        """Raise ReplicasDiffer unless all processes hold the same bits of what learns."""
        if self.ranks.size == 1 or self.sharded:
            return
        wrong = replicas_differ(self.state.global_step, self.ranks.gather(self.weights.fingerprint()))
        if wrong:
            raise ReplicasDiffer(wrong)

    @property
    def max_grad_norm(self) -> float:
        """Longest gradient a step may have; 0 for no limit."""
        return float(self.args.max_grad_norm or 0.0)


def _adapted(
    model: PreTrainedModel,
    sites: Sequence[MoeSite],
    choice: ExpertChoice,
    mode: str,
    adapter: Adapter | None,
    seed: int,
) -> AdaptedExperts | None:
    if adapter is None:
        return None
    check_adapter(adapter, mode, sharded=is_sharded(model))
    return AdaptedExperts(model, sites, choice, adapter, seed=seed)


def quiet_routers(model: nn.Module) -> None:
    """Turn off router jitter, which would make a forward random (Mixtral, DBRX, PhiMoE)."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if "jitter" in name and isinstance(value, float) and value:
                setattr(module, name, None if name == "moe_jitter_eps" else 0.0)


class _StepCallback(TrainerCallback):
    """Tells the trainer where an epoch begins and a step ends."""

    def __init__(self, trainer: ExpertMaskingTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = self.trainer.batch_sampler
        assert sampler is not None
        sampler.set_epoch(state.global_step // len(sampler))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer.step_facts is not None
        self.trainer.finish_step(self.trainer.step_facts)
        self.trainer.step_facts = None


def _check_arguments(args: TrainingArguments) -> None:
    if args.gradient_accumulation_steps != 1:
        raise InvalidInput(
            f"gradient_accumulation_steps is {args.gradient_accumulation_steps}: one optimizer step must be one "
            "analysis batch. Use micro_batch_size to save memory.",
            ("gradient_accumulation_steps",),
        )
    if args.dataloader_drop_last:
        raise InvalidInput(
            "dataloader_drop_last would drop a short last batch: leave it off.", ("dataloader_drop_last",)
        )
