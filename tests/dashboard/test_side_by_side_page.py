"""Several analyses or trainings compared: from ticked rows to one scale, against the real API."""

import numpy as np
import pytest

from dashboard import training_charts
from dashboard.parts import trainings_view
from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import heatmaps, plots, tables, words

Ids = dict[str, str]


@pytest.fixture(scope="module")
def three(backdrop: Backdrop, ids: Ids) -> list[str]:
    """Three finished analyses of one prompt set."""
    others = [backdrop.analyse(ids["dataset"], seed=seed, name=f"Seed {seed}") for seed in (11, 12)]
    return [ids["analysis"], *others]


def test_finished_rows_can_be_ticked_and_unfinished_ones_cannot(backdrop: Backdrop, ids: Ids, open_page: Open):
    at = open_page(backdrop.url, "/analysis")
    shown = tables(at)["Analyses"]
    assert shown["ticks"] == {"ids": [], "run": 0}
    assert {row["id"]: row["tick"] for row in shown["rows"]}[ids["running"]] is False
    assert {row["id"]: row["tick"] for row in shown["rows"]}[ids["analysis"]] is True
    assert next(b for b in at.button if b.label == "Compare ticked").disabled


def test_ticked_rows_lead_to_their_comparison(backdrop: Backdrop, ids: Ids, three: list[str], open_page: Open):
    at = open_page(backdrop.url, "/analysis")
    at.session_state["ticked:analyses"] = three
    at.run()
    assert tables(at)["Analyses"]["ticks"]["ids"] == three
    next(b for b in at.button if b.label == "Compare 3 ticked").click().run()
    assert "3 side by side" in words(at)


def test_several_maps_share_one_scale_and_one_chosen_cell(backdrop: Backdrop, three: list[str], open_page: Open):
    at = open_page(backdrop.url, "/compare", of=".".join(three), layer=2, expert=4)
    maps = heatmaps(at)
    assert len(maps) == 3
    assert len({one["vmax"] for one in maps}) == 1
    assert {tuple(one["sel"]) for one in maps} == {(1, 4)}
    assert "Layer 2 · Expert 4" in words(at)
    head = [column["label"] for column in tables(at)["Experts that differ most"]["columns"]]
    assert head == ["Expert", "Spread", "1: First look", "2: Seed 11", "3: Seed 12"]


def test_the_difference_to_the_first_leaves_the_first_out(backdrop: Backdrop, three: list[str], open_page: Open):
    at = open_page(backdrop.url, "/compare", of=".".join(three), show="moved", view="pairs")
    assert [one["label"].partition(":")[0] for one in heatmaps(at)] == ["2", "3"]
    pairs = tables(at)["Every two of them"]["rows"]
    assert [row["id"] for row in pairs] == ["0.1", "0.2", "1.2"]
    assert f"a={three[1]}&b={three[2]}" in pairs[2]["href"]
    drift = plots(open_page(backdrop.url, "/compare", of=".".join(three), view="drift"))
    assert [trace["name"] for trace in drift[0]["traces"]] == ["2: Seed 11", "3: Seed 12"]


def test_an_address_with_an_unfinished_side_says_which_one(backdrop: Backdrop, ids: Ids, three, open_page: Open):
    at = open_page(backdrop.url, "/compare", of=".".join([*three, ids["running"]]))
    assert "Second look" in words(at)
    assert "is running" in words(at)


def test_trainings_stand_beside_each_other(backdrop: Backdrop, ids: Ids, open_page: Open):
    at = open_page(backdrop.url, "/compare", trainings=f"{ids['training']}.{ids['broken']}")
    assert [trace["name"] for trace in plots(at)[0]["traces"]] == ["1: Chosen experts only", "2: Whole model"]
    settings = {row["id"]: row["cells"] for row in tables(at)["Settings that differ"]["rows"]}
    assert (settings["mode"]["t0"]["t"], settings["mode"]["t1"]["t"]) == ("selected", "full")
    assert "seed" not in settings
    assert "None of these trained models was measured yet" in words(at)


def test_a_kept_comparison_is_renamed_tagged_and_deleted_on_its_page(backdrop: Backdrop, three, open_page: Open):
    body = {"analysis_a": three[1], "analysis_b": three[2]}
    kept = backdrop.call("POST", "/comparisons", json=body)["id"]
    at = open_page(backdrop.url, "/compare", a=three[1], b=three[2])
    next(field for field in at.text_input if field.label == "Name").set_value("Two seeds")
    next(field for field in at.text_input if field.label == "Tags").set_value("pilot,  seed 11 , pilot")
    next(b for b in at.button if b.label == "Save").click().run()
    found = backdrop.call("GET", f"/comparisons/{kept}?matrices=false")
    assert (found["name"], found["tags"]) == ("Two seeds", ["pilot", "seed 11"])
    next(b for b in at.button if b.label == "Delete").click().run()
    assert kept not in [one["id"] for one in backdrop.call("GET", "/comparisons")["items"]]
    next(b for b in at.button if b.label == "Undo").click().run()
    assert kept in [one["id"] for one in backdrop.call("GET", "/comparisons")["items"]]


def test_settings_that_differ_are_told_and_equal_ones_are_not():
    found = training_charts.differing([{"epochs": 1, "seed": 0}, {"epochs": 3, "seed": 0, "decay": 0.1}])
    assert found == {"epochs": [1, 3], "decay": [None, 0.1]}


def test_shared_experts_of_two_sets():
    assert training_charts.shared([[1, 2], [1, 3]], [[1, 3], [2, 0]]) == (1, pytest.approx(1 / 3))
    assert training_charts.shared([], []) == (0, None)


def test_epochs_put_runs_of_other_lengths_on_one_axis():
    steps = [{"step": n, "epoch": (n - 1) // 4, "loss": 1.0} for n in range(1, 9)]
    figure = training_charts.losses(["a"], [steps], "loss", epochs=True)
    np.testing.assert_allclose(figure.traces[0].x, np.arange(1, 9) / 4)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (["tensorboard", "mlflow"], "tensorboard, mlflow"),
        ([], "–"),
        ({"rank": 8, "alpha": 16.0}, "rank: 8, alpha: 16"),
        ({"learning_rate": None}, "learning rate: –"),
        (False, "no"),
    ],
)
def test_settings_that_differ_are_said_without_brackets_and_quotes(setting: object, said: str) -> None:
    assert trainings_view.said(setting) == said
