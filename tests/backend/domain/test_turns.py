from hypothesis import given
from hypothesis import strategies as st

from backend.domain.turns import Turn, pairs_in, turn_of


def test_experts_begin_and_the_turns_alternate_inside_an_epoch():
    assert [turn_of(step, 4) for step in range(1, 5)] == [Turn.EXPERTS, Turn.ROUTERS] * 2


@given(st.integers(1, 30), st.integers(0, 20))
def test_over_two_epochs_in_one_order_every_batch_teaches_experts_once_and_routers_once(n: int, first: int):
    steps = [turn_of(first * n + place + 1, n) for place in range(n)]
    after = [turn_of((first + 1) * n + place + 1, n) for place in range(n)]
    assert all({one, other} == set(Turn) for one, other in zip(steps, after, strict=True))


def test_the_nth_safe_and_the_nth_unsafe_sample_of_a_group_are_counterparts():
    samples = [
        (0, "safe", "a"), (1, "safe", "b"), (2, "safe", "a"), (3, "safe", None),
        (4, "unsafe", "a"), (5, "unsafe", None), (6, "unsafe", "a"), (7, "unsafe", "c"),
    ]  # fmt: skip
    assert pairs_in(samples) == ((0, 4), (2, 6))
    assert pairs_in([(0, "safe", None), (1, "unsafe", None)]) == ()


ROW = st.tuples(st.sampled_from(["safe", "unsafe"]), st.sampled_from(["a", "b", None]))


@given(st.lists(ROW, max_size=20))
def test_a_pair_has_one_group_and_both_labels_and_no_sample_is_in_two(rows):
    pairs = pairs_in((place, label, group) for place, (label, group) in enumerate(rows))
    assert len({place for pair in pairs for place in pair}) == 2 * len(pairs)
    for safe, unsafe in pairs:
        assert (rows[safe][0], rows[unsafe][0]) == ("safe", "unsafe")
        assert rows[safe][1] == rows[unsafe][1] is not None
