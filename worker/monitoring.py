"""A trainer that checks, inside the forward call, that every step gets exactly its analysis batch; and records it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from backend.domain.errors import ProvenanceBroken
from backend.domain.step_order import batch_order
from backend.domain.vocabulary import Label
from worker.examples import SampleKey
from worker.runs import StepRecord
from worker.sampling import BatchPreservingSampler
from worker.seen import Seen
from worker.steps import StepFacts
from worker.trainers import ExpertMaskingTrainer
from worker.witness import (
    ExpectedBatch,
    ForwardWitness,
    HashPrompt,
    SeenSample,
    check_step,
    expected_from_rows,
    ids_digest,
)


class BatchMonitoringTrainer(ExpertMaskingTrainer):
    """Checks, inside every forward call, that a step is given exactly its analysis batch; a broken one stops the run.

    expected: the analysis batches, {batch_idx: ExpectedBatch}; None: as the training set has them when this trainer is
    made. hash_prompt: token ids -> prompt digest, with the digests of the tokenizer and template that are loaded now;
    None: of the ids alone. on_step: called with a StepRecord after each step.
    With preserve_batches=False nothing is compared and `verified` is None; samples keep their source batch.
    """

    def __init__(
        self,
        *args: Any,
        expected: Mapping[int, ExpectedBatch] | None = None,
        hash_prompt: HashPrompt | None = None,
        on_step: Callable[[StepRecord], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        hash_prompt = hash_prompt or ids_digest
        rows: Any = self.train_dataset
        self.expected = dict(expected_from_rows(rows, hash_prompt) if expected is None else expected)
        self.on_step, self.seen = on_step, Seen()
        self._order: tuple[int, list[int]] = (-1, [])
        assert self.model is not None
        self.witness = ForwardWitness(self.model, hash_prompt, self.ranks.rank)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader. Raises ProvenanceBroken if the training set lacks a batch of the analysis, or adds one."""
        loader = super().get_train_dataloader()
        if isinstance(self.batch_sampler, BatchPreservingSampler):
            wrong = sorted(self.expected.keys() ^ self.batch_sampler.batches.keys())
            if wrong:
                where = "the analysis" if wrong[0] in self.batch_sampler.batches else "the training set"
                raise ProvenanceBroken(
                    f"Analysis and training set do not hold the same batches: {len(wrong)} differ, "
                    f"the first is batch {wrong[0]}, which {where} does not have."
                )
        return loader

    def begin_step(self, facts: StepFacts) -> str | None:
        """Return the batch_id that the order of (seed, epoch) puts at this step, whatever arrived."""
        return self._due().batch_id if self.preserve_batches else None

    def begin_pass(self, facts: StepFacts) -> None:
        """Forget what forwards before these have seen."""
        super().begin_pass(facts)
        self.witness.take()

    def before_forward(self, samples: Sequence[SampleKey], labels: Tensor) -> None:
        """Tell the witness what the next forward claims to hold."""
        if self.step_facts is not None:
            self.witness.announce(samples, labels)

    def check_step(self, facts: StepFacts) -> None:
        """Compare what all processes' forwards were given with the analysis batch. Raises ProvenanceBroken."""
        shares = self.ranks.gather(self.witness.take())
        seen = [sample for share in shares for sample in share]
        facts.seen = [seen[i] for i in facts.order]
        if self.preserve_batches:
            check_step(self.state.global_step + 1, self._due(), facts.seen, shares)

    def finish_step(self, facts: StepFacts) -> None:
        """Report the step."""
        record = self._record(facts)
        self.seen.add(record)
        self.on_step(record)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.checkpoint_facts = {**self.checkpoint_facts, "seen": self.seen.write()}
        super()._save_checkpoint(model, trial)

    def _due(self) -> ExpectedBatch:
        """Return the batch of the step in hand: from the analysis, the seed and the epoch alone."""
        epoch, place = divmod(self.state.global_step, len(self.expected))
        if self._order[0] != epoch:  # once per epoch: what a step costs must not grow with the number of batches
            self._order = epoch, batch_order(self.expected, self.args.seed, epoch, self.shuffle_batches)
        return self.expected[self._order[1][place]]

    def _record(self, facts: StepFacts) -> StepRecord:
        assert self.batch_sampler is not None
        step = self.state.global_step
        keep = self.preserve_batches
        return StepRecord(
            step=step,
            epoch=(step - 1) // len(self.batch_sampler),
            batch_idx=facts.samples[0].batch_idx if keep else None,
            batch_id=facts.samples[0].batch_id if keep else None,
            verified=True if keep else None,
            loss=facts.loss,
            loss_safe=_mean(facts.losses, facts.samples, Label.SAFE),
            loss_unsafe=_mean(facts.losses, facts.samples, Label.UNSAFE),
            grad_norm=facts.grad_norm,
            learning_rate=facts.learning_rate,
            n_answer_tokens=facts.n_answer_tokens,
            seconds=time.perf_counter() - facts.started,
            kind=str(facts.turn),
            consistency_loss=facts.consistency,
            samples=tuple(_sample(seen, loss) for seen, loss in zip(facts.seen, facts.losses, strict=True)),
        )


def _mean(losses: Sequence[float], samples: Sequence[SampleKey], label: Label) -> float | None:
    of_label = [loss for loss, key in zip(losses, samples, strict=True) if key.label is label]
    return math.fsum(of_label) / len(of_label) if of_label else None


def _sample(seen: SeenSample, loss: float) -> dict[str, Any]:
    key = seen.key
    return {
        "batch_idx": key.batch_idx,
        "in_batch_idx": key.in_batch_idx,
        "row_id": key.row_id,
        "label": str(key.label),
        "prompt_digest": seen.prompt_digest,
        "loss": loss,
    }
