from hypothesis import given
from hypothesis import strategies as st

from worker.windows import WINDOW, WINDOWS_PER_SHARD, shards, windows


@given(st.integers(0, 5000), st.integers(1, 40))
def test_shards_cover_every_batch_once_and_start_on_whole_windows(n_batches: int, n_workers: int) -> None:
    found = list(shards(n_batches, n_workers))
    assert [batch for first, stop in found for batch in range(first, stop)] == list(range(n_batches))
    assert all(first % WINDOW == 0 for first, _ in found)
    assert all(0 < stop - first <= WINDOW * WINDOWS_PER_SHARD for first, stop in found)


@given(st.integers(1, 2000), st.integers(2, 40))
def test_every_worker_gets_a_shard_where_there_are_windows_enough_and_few_load_often(windows: int, n: int) -> None:
    found = list(shards(windows * WINDOW, n))
    assert len(found) >= min(n, windows)
    assert len(found) <= max(4 * n, 2 * windows // WINDOWS_PER_SHARD + 4 * n)


def test_workers_of_the_same_speed_end_together() -> None:
    sizes = [(stop - first) // WINDOW for first, stop in shards(1024, 4)]
    assert sizes == [8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4]
    assert [(stop - first) // WINDOW for first, stop in shards(640, 1)] == [16, 16, 8]


@given(st.integers(1, 200), st.sets(st.integers(0, 199)))
def test_a_window_is_left_out_only_when_all_its_batches_are_stored(n_batches: int, stored: set[int]) -> None:
    seen = [set(window) for window in windows(0, n_batches, stored)]
    assert set(range(n_batches)) - stored <= set().union(*seen)
    assert all(window - stored for window in seen)


def test_a_resumed_shard_measures_the_same_windows_as_an_undisturbed_one() -> None:
    assert list(windows(0, 40, {0, 1, 2, 17})) == [range(0, 16), range(16, 32), range(32, 40)]
    assert list(windows(0, 40, set(range(16)))) == [range(16, 32), range(32, 40)]
