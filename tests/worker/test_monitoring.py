"""Every way a step can be given something else than its analysis batch, and what the run says about it."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import PrinterCallback, TrainingArguments

from backend.domain.errors import InvalidInput, ProvenanceBroken
from backend.domain.step_order import batch_order
from backend.domain.vocabulary import Label
from tests.worker.tiny import TEXTS, save_tiny
from tests.worker.tiny_runs import ListSink, tiny_batches, tiny_run
from worker.dataset import create_batch_aware_dataset, create_batch_structured_dataset
from worker.examples import BatchCollator, ExampleRows
from worker.models import load_model
from worker.sampling import BatchPreservingSampler
from worker.training import BatchMonitoringTrainer, ExpertMaskingTrainer, build_trainer, train


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


def broken(run, batch_idx, in_batch_idx, **changes):
    """Return the run with one sample of the data changed after the analysis."""
    batch = run.batches[batch_idx]
    examples = list(batch.examples)
    examples[in_batch_idx] = dataclasses.replace(examples[in_batch_idx], **changes)
    batches = list(run.batches)
    batches[batch_idx] = dataclasses.replace(batch, examples=tuple(examples))
    return dataclasses.replace(run, batches=tuple(batches))


def test_a_prompt_that_changed_since_the_analysis_is_named_at_the_first_step_it_touches(olmoe, tmp_path):
    run, sink = tiny_run(olmoe, tmp_path), ListSink()
    example = run.batches[2].examples[1]
    other = np.append(example.prompt_ids[:-1], example.prompt_ids[-1] + 1).astype(np.int32)
    said = rf"batch 2 \({example.batch_id[:12]}\).*sample 1 \(row {example.row_id[:12]}\) has the prompt digest"
    with pytest.raises(ProvenanceBroken, match=said):
        train(broken(run, 2, 1, prompt_ids=other), sink)
    assert len(sink.records) == batch_order(range(4), run.seed, 0, True).index(2) > 0


def test_the_step_that_broke_was_not_applied(olmoe, tmp_path):
    run = dataclasses.replace(tiny_run(olmoe, tmp_path), shuffle_batches=False)
    run = broken(run, 0, 0, prompt_digest="f" * 64)
    loaded = load_model(olmoe)
    before = {name: p.clone() for name, p in loaded.model.state_dict().items()}
    trainer = build_trainer(run, loaded, ListSink(), facts={})
    with pytest.raises(ProvenanceBroken, match=r"Step 1 .*stopped before this step was applied"):
        trainer.train()
    assert all((before[name] == p).all() for name, p in loaded.model.state_dict().items())


def test_another_tokenizer_is_caught_at_the_first_step(olmoe, tmp_path):
    file = save_tiny(tmp_path / "model", "olmoe") / "tokenizer.json"
    file.write_text(file.read_text().replace('"id": 0,', '"id": 0, "note": 1,', 1).replace("<|end|>", "<|stop|>"))
    (file.parent / "tokenizer_config.json").write_text(
        (file.parent / "tokenizer_config.json").read_text().replace("<|end|>", "<|stop|>")
    )
    sink = ListSink()
    with pytest.raises(ProvenanceBroken, match=r"Step 1 .*sample 0 .*prompt digest.*and 1 more|Step 1 .*sample 0"):
        train(tiny_run(file.parent, tmp_path / "run"), sink)
    assert not sink.records


def trained_with(olmoe, out_dir, *, collator=None, sampler=None, run=None):
    """Train with a part of the data path exchanged for a faulty one."""
    run = run or dataclasses.replace(tiny_run(olmoe, out_dir), shuffle_batches=False)
    trainer = build_trainer(run, load_model(olmoe), ListSink(), facts={}, data_collator=collator)
    if sampler is not None:
        faulty = trainer.get_train_dataloader()
        faulty.batch_sampler.__class__ = sampler
        trainer.get_train_dataloader = lambda: faulty
    trainer.train()


def test_a_sampler_that_swaps_two_samples_of_a_batch_is_caught(olmoe, tmp_path):
    class Swapping(BatchPreservingSampler):
        def __iter__(self):
            for rows in super().__iter__():
                yield [rows[1], rows[0], *rows[2:]]

    with pytest.raises(
        ProvenanceBroken, match=r"batch 0 .*sample 0 .* is not in its place: sample 1 stands at place 0"
    ):
        trained_with(olmoe, tmp_path, sampler=Swapping)


def test_a_sampler_that_swaps_samples_between_batches_is_caught(olmoe, tmp_path):
    class Mixing(BatchPreservingSampler):
        def __iter__(self):
            first, second, *rest = super().__iter__()
            yield from ([*first[:-1], second[-1]], [*second[:-1], first[-1]], *rest)

    with pytest.raises(ProvenanceBroken, match=r"batch 0 .*samples of batch 1 stand in it; sample 3 .* is missing"):
        trained_with(olmoe, tmp_path, sampler=Mixing)


def test_a_sampler_that_repeats_a_batch_is_caught(olmoe, tmp_path):
    class Repeating(BatchPreservingSampler):
        def __iter__(self):
            first, _, *rest = super().__iter__()
            yield from (first, first, *rest)

    with pytest.raises(ProvenanceBroken, match=r"Step 2 was to train batch 1 .*samples of batch 0 stand in it"):
        trained_with(olmoe, tmp_path, sampler=Repeating)


def test_a_collator_that_drops_a_sample_is_caught(olmoe, tmp_path):
    class Dropping(BatchCollator):
        def __call__(self, rows):
            return super().__call__(rows[:-1])

    with pytest.raises(ProvenanceBroken, match=r"batch 0 .*4 samples were planned, 3 arrived; sample 3 .* is missing"):
        trained_with(olmoe, tmp_path, collator=Dropping(0))


def test_a_collator_that_drops_a_row_but_keeps_its_name_is_caught(olmoe, tmp_path):
    class Lying(BatchCollator):
        def __call__(self, rows):
            return super().__call__(rows[:-1]) | {"batch": super().__call__(rows)["batch"]}

    with pytest.raises(ProvenanceBroken, match="3 rows for 4 samples of batch 0"):
        trained_with(olmoe, tmp_path, collator=Lying(0))


def test_a_collator_that_exchanges_labels_is_caught(olmoe, tmp_path):
    class Mislabelling(BatchCollator):
        def __call__(self, rows):
            return super().__call__([{**row, "label": 1 - row["label"]} for row in rows])

    with pytest.raises(ProvenanceBroken, match=r"sample 0 .* is safe in the analysis and unsafe here"):
        trained_with(olmoe, tmp_path, collator=Mislabelling(0))


def test_an_answer_that_is_not_the_frozen_one_is_caught(olmoe, tmp_path):
    class Answering(BatchCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            batch["input_ids"][1, int(rows[1]["prompt_length"])] += 1
            return batch

    with pytest.raises(ProvenanceBroken, match=r"sample 1 .* has another answer than the one that was frozen"):
        trained_with(olmoe, tmp_path, collator=Answering(0))


def test_labels_that_reach_into_the_prompt_are_caught(olmoe, tmp_path):
    class Greedy(BatchCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            start = int(rows[2]["prompt_length"])
            batch["labels"][2, start - 1] = batch["input_ids"][2, start - 1]
            return batch

    with pytest.raises(ProvenanceBroken, match=r"sample 2 .* has the prompt digest"):
        trained_with(olmoe, tmp_path, collator=Greedy(0))


def test_padding_on_either_side_is_stripped_before_hashing(olmoe, tmp_path):
    class LeftPadding(BatchCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            for name, pad in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
                for i, row in enumerate(rows):
                    n, value = len(row["input_ids"]), batch[name][i].clone()
                    batch[name][i] = pad
                    batch[name][i, -n:] = value[:n]
            return batch

    trained_with(olmoe, tmp_path, collator=LeftPadding(0))


def test_every_label_of_the_plan_reaches_the_record(olmoe, tmp_path):
    sink = ListSink()
    run = dataclasses.replace(tiny_run(olmoe, tmp_path), shuffle_batches=False, epochs=1)
    train(run, sink)
    for batch, record in zip(run.batches, sink.records, strict=True):
        assert [Label(s["label"]) for s in record.samples] == [e.label for e in batch.examples]


@pytest.mark.parametrize(("kept", "said"), [(slice(0, 3), "batch 3, which the training set"), (slice(0, 4), None)])
def test_a_training_set_that_lacks_a_batch_is_refused_before_the_first_step(olmoe, tmp_path, kept, said):
    run = tiny_run(olmoe, tmp_path, epochs=1, shuffle_batches=False)
    trainer = build_trainer(run, load_model(olmoe), ListSink(), facts={})
    trainer.train_dataset = ExampleRows(run.batches[kept])
    if said is None:
        trainer.train()
        assert trainer.state.global_step == 4
    else:
        with pytest.raises(ProvenanceBroken, match=said):
            trainer.train()
        assert trainer.state.global_step == 0


def test_the_named_classes_work_together_without_the_product_around_them(olmoe, tmp_path):
    loaded = load_model(olmoe)
    rows = [
        {"prompt": f"{TEXTS[i % 8]} {i}", "label": ["safe", "unsafe"][i % 2], "response": f"Answer {i}."}
        for i in range(10)
    ]
    batches = create_batch_structured_dataset(rows, loaded.tokenizer, batch_size=4)
    data = create_batch_aware_dataset(batches, loaded.tokenizer)
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    records = []
    trainer = BatchMonitoringTrainer(loaded.model, arguments, data, experts=[(0, 1), (1, 2)], on_step=records.append)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert [r.verified for r in records] == [True] * 6
    assert Counter(r.batch_idx for r in records) == {0: 2, 1: 2, 2: 2}
    assert [len(r.samples) for r in records if r.batch_idx == 2] == [2, 2]


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 2}, {"dataloader_drop_last": True}])
def test_arguments_under_which_a_step_is_no_batch_are_refused(olmoe, tmp_path, changes):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **changes)
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        ExpertMaskingTrainer(load_model(olmoe).model, arguments, ExampleRows(tiny_batches()), experts=[(0, 1)])
