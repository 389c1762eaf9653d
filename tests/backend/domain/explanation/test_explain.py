import numpy as np
import pytest

from backend.domain.explanation.explain import FEWEST, Verdict, explain
from backend.domain.explanation.features import FEATURES
from backend.domain.explanation.outliers import LIMIT
from backend.domain.explanation.saying import findings
from backend.domain.explanation.visits import Visit, visits_of
from tests.backend.domain.explanation.runs import run


def verdicts(explanation) -> dict[str, Verdict]:
    return {figure.key: figure.verdict for figure in explanation.figures}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("backend.domain.explanation.explain._MOST", 199)


@pytest.mark.parametrize("n", [40, 120])
def test_the_feature_that_drives_the_fall_is_found_and_the_others_are_not(n: int):
    found = [verdicts(explain(*run(seed, n, drive=0.8), seed=0)) for seed in range(12)]
    assert sum(one["set_load"] is Verdict.BEYOND for one in found) >= 11
    others = ("prompt_tokens", "answer_tokens", "max_abs_risk_diff")
    assert sum(one[key] is Verdict.BEYOND for one in found for key in others) <= 2


def test_its_sign_says_which_way_it_goes():
    figures = {figure.key: figure for figure in explain(*run(0, drive=0.8), seed=0).figures}
    assert figures["set_load"].rho_beyond > 0.5


@pytest.mark.parametrize("n", [40, 160])
def test_what_only_goes_with_a_high_first_loss_is_called_gone_not_a_finding(n: int):
    found = [verdicts(explain(*run(seed, n), seed=0)) for seed in range(20)]
    assert sum(one["prompt_tokens"] is Verdict.GONE for one in found) >= 16
    assert sum(one["prompt_tokens"] is Verdict.BEYOND for one in found) <= 2


@pytest.mark.parametrize("n", [40, 160])
def test_a_run_that_nothing_drives_raises_an_alarm_in_one_of_twenty(n: int):
    alarms = [Verdict.BEYOND in verdicts(explain(*run(seed, n), seed=0)).values() for seed in range(120)]
    assert np.mean(alarms) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)


def test_controls_are_named_as_such_and_constants_as_constants():
    found = verdicts(explain(*run(0), seed=0))
    assert {key for key, verdict in found.items() if verdict is Verdict.CONTROL} == {
        "loss_first",
        "step_first",
        "step_last",
    }
    assert found["share_unsafe"] is Verdict.CONSTANT
    assert found["n_groups"] is Verdict.ABSENT
    assert set(found) == {feature.key for feature in FEATURES}


def test_after_one_epoch_it_is_the_loss_of_the_first_visit_that_is_looked_at():
    found = explain(*run(0, epochs=1), seed=0)
    assert (found.outcome, found.controls, found.n_complete) == ("loss", ("step_first",), 1)
    assert not {"loss_first", "step_last"} & set(verdicts(found))
    assert found.reason is None
    assert verdicts(found)["prompt_tokens"] is Verdict.BEYOND  # hard batches have long prompts here
    assert "first loss" not in " ".join(findings(found)), "it is what is looked at, and was not taken out"


def test_an_epoch_that_is_not_complete_is_not_looked_at():
    visits, features = run(0, epochs=1)
    seen = [Visit(b, 0, s, 1.0) for b, s in zip(visits.batches.tolist(), visits.steps[:, 0].tolist(), strict=True)]
    found = explain(visits_of(visits.batches.tolist(), seen[:11]), features, seed=0)
    assert found.reason == "The first epoch is not complete: 11 of 40 batches were visited."
    assert found.figures == ()


@pytest.mark.parametrize("n", [0, 1, FEWEST - 1])
def test_a_handful_of_batches_says_nothing(n: int):
    found = explain(*run(0, n=n), seed=0)
    assert found.reason is not None
    assert (found.figures, found.rests, found.smallest_p) == ((), None, None)


def test_a_batch_without_a_finite_loss_or_a_figure_is_left_out_by_name():
    visits, features = run(0)
    visits.losses[3, -1] = np.nan
    features["set_load"] = np.where(np.arange(40) == 5, np.nan, features["set_load"])
    found = explain(visits, features, seed=0)
    assert dict(found.left_out) == {
        3: "its loss was not finite, or was not recorded",
        5: "not known of it: load of the set's experts",
    }
    assert len(found.batches) == 38


def test_a_feature_that_many_batches_lack_is_left_out_instead_of_them():
    visits, features = run(0)
    features["set_load"] = np.where(np.arange(40) < 20, np.nan, features["set_load"])
    found = explain(visits, features, seed=0)
    assert len(found.batches) == 40
    assert verdicts(found)["set_load"] is Verdict.ABSENT


def test_losses_that_never_change_leave_nothing_to_explain():
    visits = visits_of(range(10), [Visit(b, e, 1 + b + 10 * e, 1.0) for e in (0, 1) for b in range(10)])
    found = explain(visits, {}, seed=0)
    assert found.reason == "The fall is the same in every batch, so nothing can go with it."


def test_a_batch_that_fell_less_than_was_foretold_is_named_and_hardly_another():
    others = 0
    for seed in range(10):
        visits, features = run(seed)
        visits.losses[7, -1] = visits.losses[7, 0] + 3
        found = explain(visits, features, seed=0)
        assert found.rests.z[7] < -LIMIT
        others += int(found.rests.unusual.sum()) - 1
    assert others <= 5
