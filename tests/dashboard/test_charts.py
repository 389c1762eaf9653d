import base64

import numpy as np
import pytest

from dashboard import cells, charts, data, loss_charts, risk_charts

SITES = [{"layer": layer, "site": f"model.layers.{layer}.mlp", "n_experts": 4, "top_k": 2} for layer in (3, 7)]


def _risk(values: list[list[float | None]]) -> dict[str, object]:
    return {"risk_diff": data.matrix(values), "rate_safe": None, "rate_unsafe": None, "noise_floor_cells": None}


def test_a_null_becomes_no_value_and_travels_as_nan() -> None:
    figure = risk_charts.risk_heat(_risk([[0.1, None, -0.2, 0.0], [0.0, 0.0, 0.3, 0.0]]), SITES, 0.3, "x")
    assert figure is not None
    sent = np.frombuffer(base64.b64decode(figure.spec()["z"]), dtype="<f4")
    assert np.isnan(sent[1])
    assert sent[2] == np.float32(-0.2)


def test_rows_are_named_by_the_models_own_layer_numbers() -> None:
    assert charts.site_labels(SITES) == ("3", "7")


def test_two_sites_in_one_layer_are_told_apart() -> None:
    sites = [{"layer": 3, "site": "layers.3.mlp"}, {"layer": 3, "site": "layers.3.extra"}]
    assert charts.site_labels(sites) == ("3 mlp", "3 extra")


def test_no_values_make_no_heatmap_rather_than_a_blank_one() -> None:
    assert risk_charts.risk_heat(_risk([]), SITES, 1.0, "x") is None


def test_the_stamp_changes_with_any_value() -> None:
    a = risk_charts.risk_heat(_risk([[0.1, 0.2]]), SITES[:1], 1.0, "x")
    b = risk_charts.risk_heat(_risk([[0.1, 0.3]]), SITES[:1], 1.0, "x")
    assert a is not None
    assert b is not None
    assert a.spec()["stamp"] != b.spec()["stamp"]


@pytest.mark.parametrize(
    ("value", "end"), [(0.111, 0.15), (0.2, 0.2), (0.0421, 0.05), (0.0, 1.0), (float("nan"), 1.0), (0.81, 1.0)]
)
def test_the_scale_ends_on_a_round_number_at_or_above_the_largest_value(value: float, end: float) -> None:
    assert charts.round_up(value) == pytest.approx(end)


def test_only_cells_above_the_floor_are_marked_and_nan_never_is() -> None:
    values = np.array([[0.1, -0.3], [np.nan, 0.2]], dtype=np.float32)
    assert cells.above(values, 0.15) == ((0, 1), (1, 1))
    assert cells.above(values, None) == ()


def test_an_expert_is_found_by_layer_number_not_by_row() -> None:
    assert cells.of_experts([[7, 2], [3, 1], [9, 0]], SITES) == ((1, 2), (0, 1))


def _steps() -> list[dict[str, object]]:
    return [
        {"step": i + 1, "epoch": i // 2, "batch_idx": 1 - i % 2, "verified": i != 2, "loss": 1.0 - i / 10}
        | {"loss_safe": 1.1, "loss_unsafe": 0.9}
        for i in range(4)
    ]


def test_every_point_of_the_loss_curve_leads_to_its_step() -> None:
    traces = {t.name: t for t in loss_charts.loss_curve(_steps()).traces}
    assert traces["all"].refs == [1, 2, 3, 4]
    assert traces["safe prompts"].y == [1.1] * 4


def test_a_step_that_is_not_verified_gets_its_own_mark() -> None:
    traces = {t.name: t for t in loss_charts.loss_curve(_steps()).traces}
    assert traces["not verified"].refs == [3]
    assert "not verified" not in {t.name for t in loss_charts.loss_curve(_steps()[:2]).traces}


def test_a_batch_without_a_value_leaves_a_gap_in_the_plot_of_an_expert() -> None:
    rows = [
        {"batch_idx": i, "risk_diff": None if i == 1 else 0.1, "noise_floor": None if i == 1 else 0.2} for i in range(3)
    ]
    figure = risk_charts.expert_over_batches({"layer": 3, "expert": 1, "risk_diff": 0.1, "batches": rows})
    points = next(t for t in figure.traces if t.refs)
    assert points.y == [0.1, None, 0.1]
    assert points.refs == [0, 1, 2]
