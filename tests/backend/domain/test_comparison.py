import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.comparison import Side, check_shapes, compare, cosine_distance, jensen_shannon, overlap, split
from backend.domain.errors import InvalidInput
from backend.domain.rank_correlation import kendall, spearman

LAYERS, EXPERTS = (1, 3, 4), (6, 6, 4)


def side(seed: int, *, missing: bool = False) -> Side:
    rates = np.random.default_rng(seed).dirichlet(np.ones(6), (2, 3)) * 2
    rates[:, 2, 4:] = np.nan
    if missing:
        rates[0, 0, 1] = np.nan
    return Side(LAYERS, EXPERTS, rates)


seeds = st.integers(0, 500)
vectors = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n).map(np.array)] * 2)
)


@given(seeds, st.booleans())
def test_a_comparison_with_itself_finds_nothing(seed: int, missing: bool):
    own = side(seed, missing=missing)
    found = compare(own, own)
    assert found["drift"]["max_abs"] == found["drift"]["rms"] == 0
    assert found["correlation"]["spearman"] == pytest.approx(1)
    assert found["correlation"]["kendall"] == pytest.approx(1)
    assert {one["jaccard"] for one in found["overlap"]} == {1.0}
    assert found["movers"] == []
    for layer in found["layers"]:
        assert layer["mean_abs"] == layer["rms"] == 0
        for label in ("safe", "unsafe"):
            assert layer[f"jensen_shannon_{label}"] in (0, None)
            assert layer[f"cosine_{label}"] in (0, None)


@given(seeds, seeds)
def test_exchanging_the_sides_turns_the_difference_and_nothing_else(one: int, other: int):
    a, b = side(one, missing=True), side(other)
    there, back = compare(a, b), compare(b, a)
    assert [-m["difference"] for m in there["movers"]] == [m["difference"] for m in back["movers"]]
    for key in ("drift", "max_abs", "n_cells"):
        assert there[key] == back[key]
    for x, y in zip(there["overlap"], back["overlap"], strict=True):
        assert (x["both"], x["jaccard"], x["expected"]) == (y["both"], y["jaccard"], y["expected"])
    for x, y in zip(there["layers"], back["layers"], strict=True):
        assert x == pytest.approx(y)


@given(seeds, seeds)
def test_drift_inside_and_outside_a_set_make_up_the_whole(one: int, other: int):
    a, b = side(one), side(other)
    marked = np.zeros((3, 6), dtype=bool)
    marked[[0, 2], [1, 3]] = True
    parts = split(a, b, marked)
    whole = compare(a, b)["drift"]
    assert parts["inside"]["n"] == 2
    squares = sum(part["n"] * part["rms"] ** 2 for part in parts.values())
    assert squares == pytest.approx(whole["n"] * whole["rms"] ** 2)


@given(vectors)
def test_kendall_counts_every_pair(pair):
    x, y = pair
    signs = [np.sign(np.subtract.outer(v, v))[np.triu_indices(len(v), 1)] for v in (x, y)]
    untied = [np.count_nonzero(s) for s in signs]
    if not all(untied):
        assert kendall(x, y) is None
        return
    assert kendall(x, y) == pytest.approx(float(np.sum(signs[0] * signs[1])) / np.sqrt(untied[0] * untied[1]))


@given(vectors)
def test_spearman_is_the_correlation_of_mean_ranks(pair):
    x, y = pair
    if not (np.ptp(x) and np.ptp(y)):
        assert spearman(x, y) is None
        return
    ranks = [[float((v < w).sum() + ((v == w).sum() + 1) / 2) for w in v] for v in (x, y)]
    assert spearman(x, y) == pytest.approx(float(np.corrcoef(*ranks)[0, 1]))


@given(vectors)
def test_rank_correlations_do_not_change_under_a_rising_function(pair):
    x, y = pair
    for measure in (kendall, spearman):
        if measure(x, y) is not None:
            assert measure(np.exp(x), y**3) == pytest.approx(measure(x, y))
            assert measure(-x, y) == pytest.approx(-measure(x, y))


def test_overlap_names_the_same_experts_and_what_chance_would_give():
    x = np.linspace(-1, 1, 201)
    found = {(one["direction"], one["top"]): one for one in overlap(x, x)}
    assert found["unsafe", "8"]["both"] == 8
    assert found["unsafe", "8"]["expected"] == pytest.approx(64 / 201)
    assert found["safe", "5 %"]["n_a"] == 10
    turned = {(one["direction"], one["top"]): one for one in overlap(x, -x)}
    assert turned["unsafe", "64"]["both"] == 0
    assert turned["both", "64"]["both"] == 64
    few = {(one["direction"], one["top"]): one for one in overlap(np.array([0.1, -0.2, 0.0] * 10), x[:30])}
    assert few["unsafe", "16"]["n_a"] == 10, "only what fires more on unsafe"
    assert few["unsafe", "16"]["n_b"] == 0
    assert "64" not in {top for _, top in few}


def test_the_expected_overlap_is_that_of_random_sets():
    rng = np.random.default_rng(1)
    draws = [overlap(rng.normal(size=100), rng.normal(size=100)) for _ in range(400)]
    means = {}
    for one in (row for rows in draws for row in rows if row["direction"] == "both"):
        means.setdefault(one["top"], []).append(one["both"] - one["expected"])
    for differences in means.values():
        assert abs(np.mean(differences)) < 4 * np.std(differences) / np.sqrt(len(differences))


@given(seeds)
def test_distances_of_activations_are_distances(seed: int):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(5), 2)
    for measure in (jensen_shannon, cosine_distance):
        assert measure(p, p) == 0
        assert measure(p, q) == pytest.approx(measure(q, p))
        assert 0 <= measure(p, q) <= 1
        assert measure(3 * p, q) == pytest.approx(measure(p, q)), "rates of a layer sum to its top-k: shares count"
    apart = np.array([1.0, 0]), np.array([0, 1.0])
    assert jensen_shannon(*apart) == cosine_distance(*apart) == 1
    assert jensen_shannon(np.array([np.nan, 1]), p[:2]) is None
    assert cosine_distance(np.zeros(2), p[:2]) is None


@pytest.mark.parametrize(
    ("layers", "experts", "word"),
    [
        ((1, 3), (6, 6), "only a has the MoE layers 4"),
        ((1, 3, 4, 7), (6, 6, 4, 6), "only b has the MoE layers 7"),
        ((1, 3, 4), (6, 8, 4), "layer 3 has 6 experts in a and 8 in b"),
        ((1, 1, 3, 4), (6, 6, 6, 4), "MoE sites"),
    ],
)
def test_models_of_different_shapes_are_refused_with_what_differs(layers, experts, word):
    with pytest.raises(InvalidInput, match=word):
        check_shapes(side(0), Side(layers, experts, np.zeros((2, len(layers), 8))))


@settings(deadline=None, max_examples=5)
@given(seeds)
def test_a_full_size_comparison_is_plain_json(seed: int):
    import json

    rates = np.random.default_rng(seed).dirichlet(np.ones(256), (2, 2, 58)) * 8
    sides = [Side(tuple(range(58)), (256,) * 58, own) for own in rates]
    found = json.loads(json.dumps(compare(*sides), allow_nan=False))
    assert found["n_cells"] == 58 * 256
    assert abs(found["correlation"]["kendall"]) < 0.05
