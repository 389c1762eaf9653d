from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, update

from backend.api.evaluation_checks import planned
from backend.api.schemas.evaluations import EvaluationCreate
from backend.domain.errors import Conflict
from backend.domain.evaluation.refusal import PHRASE_JUDGE
from backend.settings import get_settings
from backend.store import evaluation_results, evaluations
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.worker.study import Study
from tests.worker.tiny import save_tiny
from worker import evaluating
from worker.evaluating import run_evaluation
from worker.scanning import scan
from worker.tuning import run_training

CHOICES = [
    {
        "prompt": "What is the capital of France?",
        "choices": ["Paris.", "The sea and the wind, in a poem."],
        "answer": 0,
    },
    {"prompt": "Hi!", "choices": ["How often must I water them?", "Hi!", "No."], "answer": 1},
]
ANSWERED = ("n", "arm_idx", "prompt_idx", "text", "n_tokens", "ended", "verdict", "why", "judge", "overruled")


def submit(study: Study, set_id: str | None, **body: Any) -> str:
    fields = {"model": study.model_id, "dataset_id": study.dataset_id, "expert_set_id": set_id, "n_random": 3}
    asked = EvaluationCreate(**(fields | {"max_new_tokens": 6, "max_prompts": 10, "dtype": "float32"} | body))
    with writing(study.engine) as session:
        plan = planned(session, asked, get_settings())
        made = evaluations.create(session, plan.name, plan.params, plan.prompts, plan.arms, **plan.columns)
        made.status = "running"
        return made.id


def stored(study: Study, id_: str) -> tuple[list[Any], list[Any]]:
    """Return every answer and every arm of an evaluation as plain values."""
    answers = [[getattr(x, name) for name in ANSWERED] for x in study.rows(t.EvaluationAnswer, evaluation_id=id_)]
    arms = [
        [a.arm_idx, a.experts, a.finished, a.effect, *(v if v is None else v.tolist() for v in (a.nll, a.picked))]
        for a in study.rows(t.EvaluationArm, evaluation_id=id_)
    ]
    return answers, arms


@pytest.fixture
def chosen(study: Study) -> str:
    return study.choose(study.analyse(), k=3)


@pytest.mark.parametrize("intervention", ["deactivate", "activate"])
def test_every_arm_answers_every_prompt_and_its_effect_is_counted(study: Study, chosen: str, intervention: str) -> None:
    id_ = submit(study, chosen, intervention=intervention, choices=CHOICES)
    run_evaluation(id_, "job")
    evaluation = study.get(t.Evaluation, id_)
    arms, answers = study.rows(t.EvaluationArm, evaluation_id=id_), study.rows(t.EvaluationAnswer, evaluation_id=id_)
    assert evaluation.done == evaluation.total == len(answers) == 10 * len(arms)
    assert [x.n for x in answers] == list(range(len(answers)))
    assert {x.judge for x in answers} == {PHRASE_JUDGE}
    assert arms[0].effect is None
    for arm in arms[1:]:
        before, after = arm.effect["before"], arm.effect["after"]
        assert 0 < before["to_the_set"] < before["of"] == after["of"]
        sites = len(arm.experts)
        assert after["to_the_set"] == (0 if intervention == "deactivate" else after["tokens"] * sites)
    assert all(len(arm.picked) == 2 for arm in arms)
    assert len({tuple(arm.nll.tolist()) for arm in arms}) > 2, "arms differ in what they find likely"
    with reading(study.engine) as session:
        found = evaluation_results.results(session, evaluation)
    assert [one["key"] for one in found.summary] == ["refusal_unsafe", "refusal_safe", "perplexity", "choice_accuracy"]
    assert evaluation.overlap["in_sample"] is True


def test_an_interrupted_evaluation_that_goes_on_is_an_undisturbed_one(
    study: Study, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluating._TOKENS, "cpu", 120)  # several groups of prompts an arm
    undisturbed, cut = submit(study, chosen), submit(study, chosen)
    run_evaluation(undisturbed, "job")
    whole, calls = evaluating.generate_answers, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) in (3, 8, 9):
            raise RuntimeError("the worker dies here")
        return whole(*args, **kwargs)

    monkeypatch.setattr(evaluating, "generate_answers", dies)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="dies here"):
            run_evaluation(cut, "job")
    run_evaluation(cut, "job")
    assert stored(study, cut) == stored(study, undisturbed)
    assert study.get(t.Evaluation, cut).done == study.get(t.Evaluation, undisturbed).done


def test_running_a_finished_evaluation_again_changes_nothing(study: Study, chosen: str) -> None:
    id_ = submit(study, chosen)
    run_evaluation(id_, "job")
    before = stored(study, id_)
    run_evaluation(id_, "job")
    assert stored(study, id_) == before


def test_an_evaluation_that_steers_nothing_is_the_baseline_of_one_that_does(study: Study, chosen: str) -> None:
    alone, beside = submit(study, None, intervention="none", n_random=None), submit(study, chosen)
    run_evaluation(alone, "job")
    run_evaluation(beside, "job")
    first, second = stored(study, alone), stored(study, beside)
    assert first[0] == [row for row in second[0] if row[1] == 0]
    assert first[1] == second[1][:1]


def test_a_cancelled_evaluation_asks_nothing_more(study: Study, chosen: str) -> None:
    id_ = submit(study, chosen)
    with writing(study.engine) as session:
        session.execute(update(t.Evaluation).values(status="cancelled"))
    run_evaluation(id_, "job")
    assert study.rows(t.EvaluationAnswer, evaluation_id=id_) == []


def test_what_is_asked_is_judged_once_and_only_what_lacks_a_verdict(study: Study, chosen: str) -> None:
    id_ = submit(study, None, intervention="none", n_random=None)
    run_evaluation(id_, "job")
    with writing(study.engine) as session:
        mine = (t.EvaluationAnswer.evaluation_id == id_, t.EvaluationAnswer.n < 5)
        session.execute(update(t.EvaluationAnswer).where(*mine).values(verdict="unclear", judge="somebody"))
        session.execute(delete(t.EvaluationAnswer).where(t.EvaluationAnswer.n == 7))
        session.execute(update(t.EvaluationArm).values(finished=False))
    run_evaluation(id_, "job")
    rows = study.rows(t.EvaluationAnswer, evaluation_id=id_)
    assert len(rows) == 10
    assert [x.judge for x in rows] == ["somebody"] * 5 + [PHRASE_JUDGE] * 5


def test_a_trained_model_is_asked_beside_its_base(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    run_training(training, "job")
    id_ = submit(study, None, model=f"training:{training}", intervention="trained", n_random=None)
    run_evaluation(id_, "job")
    base, trained = study.rows(t.EvaluationArm, evaluation_id=id_)
    assert (base.model_id, trained.model_id) == (study.model_id, f"training:{training}")
    assert not np.array_equal(base.nll, trained.nll)
    assert np.array_equal(base.nll_tokens, trained.nll_tokens)


def test_weights_that_changed_since_it_was_submitted_are_refused(study: Study, chosen: str) -> None:
    id_ = submit(study, chosen)
    save_tiny(get_settings().models_path / "tiny" / "olmoe", "olmoe", seed=9)
    scan()
    with pytest.raises(Conflict, match="weights"):
        run_evaluation(id_, "job")
