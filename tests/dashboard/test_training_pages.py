"""The training page: losses of batches and samples over the epochs, and why they fell as they did."""

from collections.abc import Iterator

import pytest

from dashboard import fall_charts, loss_charts
from tests.dashboard.backdrop import Backdrop, serve
from tests.dashboard.conftest import Open
from tests.dashboard.reading import plots, tables, words

Ids = dict[str, str]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backdrop, str]]:
    """An API of this module's own, with a measured analysis: what is trained there is in no other test's way."""
    with serve(tmp_path_factory.mktemp("own")) as backdrop:
        backdrop.scan()
        yield backdrop, backdrop.analyse(backdrop.call("POST", "/datasets/demo")["id"])


def test_every_batch_stands_in_the_table_with_its_fall(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", id=ids["training"], curve="batches", sort="-fall")
    rows = tables(at)["Batches of this training"]["rows"]
    found = backdrop.call("GET", f"/trainings/{ids['training']}/batches?sort=-fall")["items"]
    assert [row["id"] for row in rows] == [str(one["batch_idx"]) for one in found]
    assert rows[0]["cells"]["fall"]["t"] == f"{found[0]['fall']:+.3f}".replace("-", "−")
    assert rows[0]["cells"]["over"]["t"].count("→") == 2
    assert rows[0]["href"].endswith(f"&step={found[0]['step_last']}")


def test_what_may_be_said_stands_before_the_figures(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", id=ids["training"], curve="why")
    why = backdrop.call("GET", f"/trainings/{ids['training']}/explanation")
    said = words(at)
    assert "regression to the mean" in said
    assert "A relation is not a cause" in said
    rows = tables(at)["What goes with the fall, feature by feature"]["rows"]
    assert [row["id"] for row in rows] == [figure["key"] for figure in why["figures"]]
    assert rows[0]["cells"]["verdict"]["t"] == "control: taken out of the others"
    assert rows[0]["cells"]["beyond"]["t"] == "–", "a control has no figure beyond itself"


def test_a_point_against_a_feature_is_a_batch_of_the_address(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    batch = backdrop.call("GET", f"/trainings/{ids['training']}/batches/3")
    step = batch["step_last"]
    at = open_page(backdrop.url, "/training", id=ids["training"], curve="why", feature="prompt_tokens", step=step)
    against = plots(at)[0]
    assert against["x_title"] == "prompt length"
    assert against["sel"] == 3
    place = against["traces"][0]["refs"].index(3)
    assert against["traces"][0]["y"][place] == pytest.approx(batch["fall"])


def test_a_step_shows_its_batch_and_every_sample_over_the_epochs(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", id=ids["training"], step=5)
    batch = backdrop.call("GET", f"/trainings/{ids['training']}/batches/4")
    over = plots(at)[1]
    whole = next(trace for trace in over["traces"] if trace["refs"])
    assert whole["refs"] == [visit["step"] for visit in batch["visits"]]
    assert whole["y"] == batch["losses"]
    assert len(over["traces"]) == len(batch["samples"]) + 1
    rows = tables(at)["Samples of this step, in order"]["rows"]
    assert rows[2]["cells"]["over"]["t"] == fall_charts.losses_in_words(batch["samples"][2]["losses"])


def test_after_one_epoch_nothing_is_called_a_fall(own: tuple[Backdrop, str], open_page: Open) -> None:
    backdrop, analysis = own
    once = backdrop.train(analysis, mode="full", name="Once")
    at = open_page(backdrop.url, "/training", id=once, curve="why", step=2)
    assert "there is no fall" in words(at)
    assert "Batch 1 over the epochs" not in [s.value for s in at.subheader]


def test_a_run_without_batches_offers_no_rooms_for_them(own: tuple[Backdrop, str], open_page: Open) -> None:
    backdrop, analysis = own
    mixed = backdrop.train(analysis, mode="full", preserve_batches=False, unfinished=True, name="Mixed")
    at = open_page(backdrop.url, "/training", id=mixed, curve="why")
    shown = next(c for c in at.get("button_group") if c.proto.label == "Show")
    assert [option.content for option in shown.proto.options] == ["Loss per step"]
    assert "each visits every sample once" in words(at)
    assert "one analysis batch" not in plots(at)[0]["x_title"]


def test_a_run_in_its_first_epoch_says_what_is_missing(own: tuple[Backdrop, str], open_page: Open) -> None:
    backdrop, analysis = own
    begun = backdrop.train(analysis, mode="full", unfinished=True, name="Begun")
    at = open_page(backdrop.url, "/training", id=begun, curve="why")
    assert "The first epoch is not complete" in words(at)


def test_a_batch_shows_its_loss_over_the_epochs_of_every_training(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3)
    used = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/3/trainings")["items"]
    losses = plots(at)[-1]
    assert sorted(ref for trace in losses["traces"] for ref in trace["refs"]) == list(range(len(used)))


def test_the_form_of_an_evaluation_opens_on_the_trained_model(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/evaluation", model=f"training:{ids['training']}")
    assert next(s for s in at.selectbox if s.label == "Intervention").value == "trained"


def test_the_order_of_batches_has_a_rule_after_each_epoch_but_the_last() -> None:
    steps = [{"step": n, "epoch": (n - 1) // 2, "batch_idx": (n - 1) % 2} for n in range(1, 7)]
    figure = loss_charts.order_by_epoch([*steps, {"step": 7, "epoch": 3, "batch_idx": None}])
    assert [trace.x for trace in figure.traces if trace.role == "quiet"] == [[2.5, 2.5], [4.5, 4.5]]
    assert [ref for trace in figure.traces for ref in trace.refs or []] == [1, 2, 3, 4, 5, 6]
    assert loss_charts.order_by_epoch([]).traces == ()


def test_of_many_visits_the_ends_are_said() -> None:
    assert fall_charts.losses_in_words([1.0, 2.0, None]) == "1.00 → 2.00 → –"
    assert fall_charts.losses_in_words([float(i) for i in range(9)], 0) == "0 → 1 → … → 7 → 8"
