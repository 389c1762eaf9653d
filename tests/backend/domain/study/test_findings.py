import json
from dataclasses import replace

import numpy as np
import pytest

from backend.domain.jobs import QUEUE_OF_ENGINE, WORKFLOWS, queue_for
from backend.domain.study.findings import findings
from backend.domain.study.outcomes import ARMS, KIND_OF_ROLE, Arm, mean_loss, n_runs
from backend.domain.study.size import Part, estimate, eta_seconds
from backend.domain.study.verdict import verdicts
from tests.backend.domain.study.making import normal_runs, outcome

HELD_OUT = {"n_prompts": 50, "n_seen": 0}
ZERO = np.zeros(64)


def said(found: dict, key: str, causal: list | None = None, overlap: dict = HELD_OUT) -> dict[str, str]:
    return next(one for one in verdicts(found, causal or [], overlap) if one["key"] == key)


def test_every_figure_of_two_seeds_by_hand() -> None:
    runs = [
        outcome(Arm.PRESERVED, 0, [1.0, 0.0], final_loss=1.0, drift=None),
        outcome(Arm.PRESERVED, 1, [1.0, 2.0], final_loss=3.0, drift=1.0),
        outcome(Arm.SHUFFLED, 0, [0.0, 0.0], final_loss=2.0, drift=1.0),
        outcome(Arm.SHUFFLED, 1, [4.0, 4.0], final_loss=8.0, drift=2.0),
    ]
    found = findings(runs, {"final_loss": 9.0}, np.array([0.0, 1.0]))
    loss, drift = found["measures"]
    assert (loss["key"], loss["base"], loss["n_seeds"]) == ("final_loss", 9.0, 2)
    assert [loss["arms"][str(arm)]["mean"] for arm in ARMS] == [2.0, 5.0]
    assert loss["level"]["values"] == [-1.0, -5.0]
    assert loss["level"]["mean"] == -3.0
    assert loss["level"]["smallest_p"] == 0.5
    assert loss["spread"]["ratio"] == pytest.approx(3.0)
    assert (drift["n_seeds"], drift["seeds"]) == (1, [1])
    assert drift["spread"]["why"] == "at least two seeds are needed"
    kept, mixed = (found["maps"]["arms"][str(arm)] for arm in ARMS)
    assert kept["pairs"][0] == {
        "seeds": [0, 1],
        "distance": pytest.approx(np.sqrt(2)),
        "correlation": pytest.approx(-1),
        "of_changes": None,  # the second run moved by 1 everywhere: that does not vary
    }
    assert mixed["mean_distance"] == 4.0
    assert found["maps"]["ratio"] == pytest.approx(4 / np.sqrt(2))
    assert found["maps"]["between_means"] == pytest.approx(1.0)
    assert found["varies"] == {
        "same_targets": True,
        "steps": {"preserved": 8, "shuffled": 8},
        "verified": {"preserved": 8, "shuffled": 0},
    }


def test_a_planted_difference_in_reproducibility_is_found_and_named_in_its_direction() -> None:
    more = findings(normal_runs(5, scatter=3.0), {}, ZERO)
    assert said(more, "reproducibility")["tone"] == "shown"
    assert said(more, "reproducibility")["text"].endswith("Keeping batches made the results more reproducible here.")
    less = findings(normal_runs(5, scatter=1 / 3), {}, ZERO)
    assert said(less, "reproducibility")["text"].endswith("Keeping batches made the results less reproducible here.")


def test_arms_that_scatter_alike_are_called_not_different_whatever_their_level() -> None:
    for shift in (0.0, 5.0):
        tones = [
            said(findings(normal_runs(5, scatter=1.0, shift=shift, draw=draw), {}, ZERO), "reproducibility")["tone"]
            for draw in range(40)
        ]
        assert tones.count("shown") <= 5


def test_five_seeds_cannot_show_a_difference_in_level_and_the_verdict_says_so() -> None:
    found = findings(normal_runs(5, scatter=1.0, shift=1000.0), {}, ZERO)
    level = said(found, "level")
    assert level["tone"] == "not_shown"
    assert "smallest attainable p is 0.0625" in level["text"]
    assert said(findings(normal_runs(8, scatter=1.0, shift=1000.0), {}, ZERO), "level")["tone"] == "shown"


def test_a_study_of_one_seed_tests_nothing_and_says_so() -> None:
    found = findings(normal_runs(1, scatter=1.0), {}, ZERO)
    assert {said(found, key)["tone"] for key in ("reproducibility", "scatter", "level")} == {"untested"}


def test_the_causal_check_is_held_against_every_family_of_random_sets() -> None:
    def causal(p: float) -> list[dict]:
        control = {"n_as_extreme": 0, "n": 20, "smallest_p": 1 / 21}
        families = [{"family": "random", "p": 1 / 21}, {"family": "load_matched", "p": p}]
        rates = {"baseline": {"value": 0.9}, "real": {"value": 0.4}}
        return [{"key": "refusal_unsafe", **rates, "controls": [control | one for one in families]}]

    found = findings(normal_runs(3, scatter=1.0), {}, ZERO)
    assert said(found, "causal", causal(1 / 21))["tone"] == "shown"
    other = said(found, "causal", causal(0.2))
    assert other["tone"] == "not_shown"
    assert "from 90.0 % to 40.0 %" in other["text"]


def test_seen_prompts_are_called_in_sample() -> None:
    found = findings(normal_runs(3, scatter=1.0), {}, ZERO)
    assert said(found, "held_out", overlap={"n_prompts": 50, "n_seen": 3})["text"].startswith("In-sample: 3 of 50")


def test_experts_without_a_risk_diff_in_one_run_count_in_none() -> None:
    runs = normal_runs(3, scatter=1.0, dim=4)
    runs[1].risk_diff[2] = np.nan
    found = findings(runs, {}, np.array([0.0, 0.0, 0.0, np.nan]))
    assert found["maps"]["n_experts"] == 2
    json.dumps(found, allow_nan=False)


def test_different_seeds_in_the_arms_are_refused() -> None:
    runs = [outcome(Arm.PRESERVED, 0, [0.0]), outcome(Arm.SHUFFLED, 1, [0.0])]
    with pytest.raises(ValueError, match="same seeds"):
        findings(runs, {}, np.zeros(1))


def test_a_loss_with_a_hole_is_no_loss() -> None:
    assert mean_loss([1.0, 3.0]) == 2.0
    assert mean_loss([1.0, None]) is None
    assert mean_loss([]) is None


def test_five_seeds_are_forty_one_runs() -> None:
    assert sum(n_runs(5).values()) == 41


def test_a_study_never_waits_in_a_queue_that_its_runs_need() -> None:
    queues = {queue_for(kind, engine) for kind in KIND_OF_ROLE.values() for engine in (None, "transformers", "vllm")}
    assert WORKFLOWS["study"][1] not in queues | set(QUEUE_OF_ENGINE.values())


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_an_eta_weighs_runs_by_their_work_and_counts_from_the_restart(n_seeds: int) -> None:
    work = estimate(n_seeds=n_seeds, n_samples=64, n_steps=4, batch_size=16, n_arms=5, n_prompts=10, max_new_tokens=32)[
        "work"
    ]
    nothing = [Part("training", 0.0, 0.0), Part("analysis", 0.0, 0.0)]
    assert eta_seconds(nothing, work, 10.0) is None
    half = [Part("training", 1.0, 0.0), Part("analysis", 0.0, 0.0)]
    expected = 10.0 * work["analysis"] / work["training"]
    assert eta_seconds(half, work, 10.0) == pytest.approx(expected, abs=0.05)
    restarted = [Part("training", 1.0, 1.0), Part("analysis", 0.5, 0.0)]
    assert eta_seconds(restarted, work, 10.0) == pytest.approx(10.0)


def test_an_arm_whose_runs_are_all_the_same_is_the_one_that_scatters_less() -> None:
    for scattered, way in ((Arm.PRESERVED, "less"), (Arm.SHUFFLED, "more")):
        runs = [
            outcome(arm, seed, [0.1 * seed, 0.0], choice_accuracy=0.5 + 0.01 * seed * (arm is scattered))
            for arm in ARMS
            for seed in range(6)
        ]
        scatter = said(findings(runs, {}, np.zeros(2)), "scatter")
        assert scatter["tone"] == "shown"
        assert f"multiple choice scatters {way} when reshuffled" in scatter["text"]


def test_where_the_number_of_figures_puts_every_difference_out_of_reach_the_verdicts_say_so() -> None:
    keys = ("final_loss", "refusal_unsafe", "refusal_safe", "perplexity", "drift", "set_change")
    rng = np.random.default_rng(0)

    def with_seeds(n: int) -> dict:
        return findings(
            [
                outcome(arm, seed, rng.normal(size=4), **dict.fromkeys(keys, 100.0 * (arm is Arm.SHUFFLED) + seed))
                for arm in ARMS
                for seed in range(n)
            ],
            {},
            np.zeros(4),
        )

    level = said(with_seeds(6), "level")
    assert level["tone"] == "not_shown", "a difference as large as any: 6 figures times 0.031"
    assert "smallest attainable p is 0.0312 (0.1875 adjusted for 6), so this test could not have shown" in level["text"]
    assert said(with_seeds(8), "level")["tone"] == "shown"
    assert "could not have shown" in said(with_seeds(4), "scatter")["text"], "6 times 2/70"
    assert "could not have shown" not in said(with_seeds(6), "scatter")["text"]


def test_a_model_that_fell_apart_costs_its_seed_and_not_the_study() -> None:
    runs = [
        outcome(arm, seed, [0.1 * seed], perplexity=1e304 if (arm, seed) == (Arm.SHUFFLED, 2) else 5.0 + seed)
        for arm in ARMS
        for seed in range(3)
    ]
    found = findings(runs, {}, np.zeros(1))
    assert found["measures"][0]["seeds"] == [0, 1]
    json.dumps(found, allow_nan=False)


def test_maps_without_any_common_expert_are_not_blamed_on_the_seeds() -> None:
    runs = [outcome(arm, seed, [np.nan]) for arm in ARMS for seed in range(3)]
    text = said(findings(runs, {}, np.zeros(1)), "reproducibility")["text"]
    assert "no expert has a risk_diff in every model" in text


def test_a_difference_between_runs_that_learned_other_answers_or_were_not_verified_is_said_with_that() -> None:
    runs = normal_runs(5, scatter=3.0)
    clean = said(findings(runs, {}, ZERO), "reproducibility")
    assert (clean["tone"], " But " in clean["text"]) == ("shown", False)
    runs[0] = replace(runs[0], n_verified=3, targets="others")
    text = said(findings(runs, {}, ZERO), "reproducibility")["text"]
    assert "did not all learn the same answers" in text
    assert text.endswith("But of the steps of the arm that keeps batches, 1 were not verified.")
