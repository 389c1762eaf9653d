import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.explanation.visits import Visit, visits_of


@st.composite
def schedules(draw):
    """A run cut off anywhere: the loss of a step is its own number, so that every figure can be told."""
    n, epochs = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    orders = [draw(st.permutations(range(n))) for _ in range(epochs)]
    flat = [(batch, epoch) for epoch, order in enumerate(orders) for batch in order]
    visits = [Visit(batch, epoch, step, float(step)) for step, (batch, epoch) in enumerate(flat, 1)]
    return n, visits[: draw(st.integers(0, len(visits)))]


@given(schedules())
def test_the_fall_is_taken_between_the_first_and_the_last_complete_epoch(schedule):
    n, done = schedule
    found = visits_of(range(n), done)
    assert found.n_complete == len(done) // n
    for batch in range(n):
        own = [visit for visit in done if visit.batch_idx == batch][: found.n_complete]
        if len(own) > 1:
            assert found.fall[batch] == own[0].loss - own[-1].loss
        else:
            assert np.isnan(found.fall[batch])


@given(schedules())
def test_every_visit_is_kept_with_its_step(schedule):
    n, done = schedule
    found = visits_of(range(n), reversed(done))
    assert sorted(found.steps[found.steps > 0].tolist()) == list(range(1, len(done) + 1))
    assert (np.isnan(found.losses) == (found.steps == 0)).all()


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_none_but_its_visit_counts(loss):
    found = visits_of([0], [Visit(0, 0, 1, 2.0), Visit(0, 1, 2, loss)])
    assert found.n_complete == 2
    assert np.isnan(found.fall[0])


def test_a_visit_to_an_unknown_batch_is_an_error():
    with pytest.raises(KeyError):
        visits_of([0], [Visit(1, 0, 1, 2.0)])


def test_no_batch_at_all_is_no_complete_epoch():
    assert visits_of([], []).n_complete == 0
