"""One evaluation, from the store to the store: arm by arm, prompt group by prompt group, each kept as it comes.

An arm steers the model, proves that the steering holds, answers every prompt greedily, measures the likelihood of given
answers, and is judged. Groups depend on the prompts' lengths alone, so a resumed evaluation runs the same forward
passes as an undisturbed one. Not covered: drawing the arms (done at submission), what the answers say
(backend/store/evaluation_results.py).
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from backend.domain.errors import Conflict, NotFound
from backend.domain.evaluation.interventions import STEERS, Intervention
from backend.domain.prompts import Message
from backend.domain.vocabulary import Expert
from backend.settings import Settings, get_settings
from backend.store import datasets, evaluations, writes
from backend.store import tables as t
from backend.store.engine import insist, reading, shared_engine, writing
from worker.answering import messages_of
from worker.capture.generation import end_ids, generate_answers
from worker.capture.padding import group_by_length
from worker.judging import Judge, open_judge
from worker.likelihood import negative_log_likelihoods
from worker.measuring import still_wanted
from worker.models import LoadedModel, load_model, parameter_count
from worker.prompts import decode_answer, encode_answer, encode_prompt
from worker.scanning import choose_device, environment
from worker.steering import check_effect, effect_of, probe, steered

Ids = NDArray[np.int32]
_TOKENS = {"cpu": 8192}
_PROBED = 16
_SMALL = 20_000_000
"""Parameters below which one thread is the fastest: on a busy machine two threads wait for each other at every step."""
_LONGEST_ANSWER = 512
"""Given answers are cut there, in tokens, before their likelihood is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What every arm of one model is given. texts: (prompt, answer); choices: per question (prompt, answers)."""

    prompts: list[Ids]
    words: list[str]
    groups: list[list[int]]
    texts: tuple[list[Ids], list[Ids]]
    choices: list[tuple[Ids, list[Ids]]]


def run_evaluation(evaluation_id: str, job_id: str) -> int:
    """Run an evaluation to its end, from wherever an earlier process left it; return its number of arms."""
    settings = get_settings()
    engine = shared_engine(settings.tables_url)
    with reading(engine) as session:
        evaluation = session.get(t.Evaluation, evaluation_id)
        if evaluation is None:
            raise NotFound("evaluation", evaluation_id)
        arms = evaluations.arms(session, evaluation_id)
    judge = open_judge(evaluation.params["judge"], settings, choose_device(settings))
    with writing(engine) as session:
        writes.set_stage(session, t.Evaluation, evaluation_id, environment=environment(settings))
    for model_id in dict.fromkeys(arm.model_id for arm in arms if not arm.finished):
        loaded = _load(engine, settings, evaluation, model_id)
        if loaded.device.type == "cpu" and parameter_count(loaded.model) < _SMALL:
            torch.set_num_threads(1)
        asked = _asked(engine, evaluation, loaded)
        runner = _Runner(engine, evaluation, job_id, loaded, asked, judge, len(arms))
        for arm in arms:
            if arm.model_id == model_id and not arm.finished and not runner.run(arm):
                return len(arms)
    return len(arms)


def _load(engine: Engine, settings: Settings, evaluation: t.Evaluation, model_id: str) -> LoadedModel:
    with reading(engine) as session:
        model = session.get_one(t.Model, model_id)
    frozen = evaluation.model_digests[model_id]
    loaded = load_model(
        model.path, dtype=evaluation.params["dtype"], device=choose_device(settings), allow_hub=settings.allow_hub
    )
    found = {
        "weights": model.weights_digest,
        "tokenizer": loaded.tokenizer_digest,
        "template": loaded.template_digest,
    }
    for name, value in found.items():
        if value != frozen[name]:
            raise Conflict(f"The {name} of {model_id} changed since this evaluation was submitted: start a new one.")
    return loaded


# --- what is asked


def _asked(engine: Engine, evaluation: t.Evaluation, loaded: LoadedModel) -> Asked:
    params = evaluation.params
    with reading(engine) as session:
        positions = [p.row_idx for p in evaluations.prompts(session, evaluation.id)]
        rows = datasets.rows_at(session, evaluation.dataset_id, positions)
        from_ = evaluation.capability_dataset_id or evaluation.dataset_id
        given = datasets.rows_at(session, from_, evaluation.texts)

    def prompt(messages: Sequence[Message]) -> Ids:
        return encode_prompt(
            loaded.tokenizer, messages, system_prompt=params["system_prompt"], max_length=params["max_length"]
        ).ids

    prompts = [prompt(messages_of(rows[i])) for i in positions]
    budget = _TOKENS.get(loaded.device.type, 65_536)
    return Asked(
        prompts=prompts,
        words=[datasets.text_of(rows[i]) for i in positions],
        groups=list(group_by_length([len(p) + params["max_new_tokens"] for p in prompts], budget)),
        texts=(
            [prompt(messages_of(given[i])) for i in evaluation.texts],
            [encode_answer(loaded.tokenizer, given[i].response or "", _LONGEST_ANSWER) for i in evaluation.texts],
        ),
        choices=[
            (prompt((Message("user", q["prompt"]),)), [_choice(loaded, text) for text in q["choices"]])
            for q in params["choices"]
        ],
    )


def _choice(loaded: LoadedModel, text: str) -> Ids:
    """Return the ids of a choice without the end token: choices are compared by what they say."""
    ids = encode_answer(loaded.tokenizer, text, _LONGEST_ANSWER)
    return ids[:-1] if len(ids) > 1 and ids[-1] == loaded.tokenizer.eos_token_id else ids


# --- an arm


class _Runner:
    """Runs the arms of one loaded model."""

    def __init__(
        self,
        engine: Engine,
        evaluation: t.Evaluation,
        job_id: str,
        loaded: LoadedModel,
        asked: Asked,
        judge: Judge,
        n_arms: int,
    ) -> None:
        self.engine, self.evaluation, self.job_id = engine, evaluation, job_id
        self.loaded, self.asked, self.judge, self.n_arms = loaded, asked, judge, n_arms
        self.probed = asked.prompts[:_PROBED]
        self.free = probe(loaded, self.probed)

    def run(self, arm: t.EvaluationArm) -> bool:
        """Run one arm to its end. Returns False if the evaluation is no longer wanted."""
        started = time.monotonic()
        self._stage(arm, "answering")
        experts = [(layer, expert) for layer, expert in arm.experts]
        intervention = Intervention(self.evaluation.intervention)
        steers = bool(experts) and intervention in STEERS
        block: AbstractContextManager[None] = (
            steered(self.loaded.sites, experts, intervention) if steers else nullcontext()
        )
        with block:
            effect = self._effect(experts, intervention, steers=steers)
            if not self._answer(arm):
                return False
            values = {"effect": effect} | self._scores(arm)
        if not self._judge(arm):
            return False
        with writing(self.engine) as session:
            own = session.get_one(t.EvaluationArm, (self.evaluation.id, arm.arm_idx))
            for name, value in values.items():
                setattr(own, name, value)
            own.finished = True
            seconds = time.monotonic() - started
            writes.log(session, self.job_id, f"arm {arm.arm_idx} ({arm.family}) done in {seconds:.1f} s")
        return True

    def _stage(self, arm: t.EvaluationArm, what: str) -> None:
        stage = f"{what}: arm {arm.arm_idx + 1} of {self.n_arms}"
        with writing(self.engine) as session:
            writes.set_stage(session, t.Evaluation, self.evaluation.id, stage=stage)

    def _effect(self, experts: Sequence[Expert], intervention: Intervention, *, steers: bool) -> dict[str, Any] | None:
        """Return what the set received in a probe pass, and what it receives of an unsteered model."""
        if not steers:
            return None
        before = effect_of(self.loaded.sites, *self.free, experts)
        after = check_effect(self.loaded, self.probed, experts, intervention)
        return {"before": before.to_dict(), "after": after.to_dict()}

    def _answer(self, arm: t.EvaluationArm) -> bool:
        stored = self._stored(arm)
        ends = end_ids(self.loaded)
        for group in self.asked.groups:
            if stored.issuperset(group):
                continue
            if not still_wanted(self.engine, t.Evaluation, self.evaluation.id):
                return False
            limit = self.evaluation.params["max_new_tokens"]
            budget = len(group) * (limit + max(len(self.asked.prompts[i]) for i in group))
            answers = generate_answers(
                self.loaded, [self.asked.prompts[i] for i in group], limit, micro_batch_tokens=budget
            )
            rows = [self._row(arm, i, ids, ends) for i, ids in zip(group, answers, strict=True)]
            insist(self.engine, partial(writes.record_evaluated, evaluation_id=self.evaluation.id, rows=rows))
        return True

    def _stored(self, arm: t.EvaluationArm) -> set[int]:
        x = t.EvaluationAnswer
        query = select(x.prompt_idx).where(x.evaluation_id == self.evaluation.id, x.arm_idx == arm.arm_idx)
        with reading(self.engine) as session:
            return set(session.scalars(query))

    def _row(self, arm: t.EvaluationArm, prompt_idx: int, ids: Ids, ends: Sequence[int]) -> dict[str, Any]:
        return {
            "n": arm.arm_idx * len(self.asked.prompts) + prompt_idx,
            "arm_idx": arm.arm_idx,
            "prompt_idx": prompt_idx,
            "text": decode_answer(self.loaded.tokenizer, ids),
            "n_tokens": len(ids),
            "ended": bool(len(ids) and int(ids[-1]) in ends),
        }

    def _scores(self, arm: t.EvaluationArm) -> dict[str, Any]:
        """Return the likelihoods of the given answers, and which choice is the most likely."""
        found: dict[str, Any] = {}
        prompts, answers = self.asked.texts
        if prompts:
            self._stage(arm, "perplexity")
            found["nll"] = negative_log_likelihoods(self.loaded, prompts, answers)
            found["nll_tokens"] = np.array([len(ids) for ids in answers], dtype=np.int64)
        if self.asked.choices:
            self._stage(arm, "choosing")
            pairs = [(prompt, choice) for prompt, choices in self.asked.choices for choice in choices]
            nll = negative_log_likelihoods(self.loaded, [p for p, _ in pairs], [c for _, c in pairs])
            ends = np.cumsum([len(choices) for _, choices in self.asked.choices])[:-1]
            found["picked"] = np.array([int(np.argmin(own)) for own in np.split(nll, ends)], dtype=np.int64)
        return found

    def _judge(self, arm: t.EvaluationArm) -> bool:
        x = t.EvaluationAnswer
        mine = (x.evaluation_id == self.evaluation.id, x.arm_idx == arm.arm_idx, x.verdict.is_(None))
        with reading(self.engine) as session:
            open_ = session.execute(select(x.n, x.prompt_idx, x.text).where(*mine).order_by(x.n)).all()
        for start in range(0, len(open_), 64):
            if not still_wanted(self.engine, t.Evaluation, self.evaluation.id):
                return False
            some = open_[start : start + 64]
            judged = self.judge.judge([(self.asked.words[prompt_idx], text) for _, prompt_idx, text in some])
            with writing(self.engine) as session:
                verdicts = [(n, one, self.judge.name) for (n, _, _), one in zip(some, judged, strict=True)]
                writes.record_verdicts(session, self.evaluation.id, verdicts)
        return True
