from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.step_order import seeded_order
from worker.sampling import BatchPreservingSampler, ShuffledSampler, share_of


def rows(sizes, safe_ratio=0.5):
    """Rows of batches of these sizes, safe first, as a list of dicts."""
    return [
        {"batch_idx": idx, "in_batch_idx": i, "label": int(i >= round(size * safe_ratio))}
        for idx, size in enumerate(sizes)
        for i in range(size)
    ]


SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=8)


@given(sizes=SIZES, seed=st.integers(0, 99), epoch=st.integers(0, 9), shuffle=st.booleans())
def test_an_epoch_yields_every_batch_once_and_whole(sizes, seed, epoch, shuffle):
    data = rows(sizes)
    sampler = BatchPreservingSampler(data, max(sizes), shuffle, seed=seed)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == len(sizes)
    assert Counter(data[share[0]]["batch_idx"] for share in drawn) == Counter(range(len(sizes)))
    for share in drawn:
        idx = data[share[0]]["batch_idx"]
        assert [(data[i]["batch_idx"], data[i]["in_batch_idx"]) for i in share] == [(idx, i) for i in range(sizes[idx])]


@given(sizes=SIZES, seed=st.integers(0, 99), world_size=st.integers(1, 6), ratio=st.sampled_from([0.25, 0.5, 0.8]))
def test_the_shares_of_all_ranks_are_the_batch_and_keep_its_ratio(sizes, seed, world_size, ratio):
    data = rows(sizes, ratio)
    whole = list(BatchPreservingSampler(data, 9, seed=seed))
    shares = [
        list(BatchPreservingSampler(data, 9, seed=seed, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert sorted(i for part in parts for i in part) == batch
        assert all(part == sorted(part) for part in parts)
        for label in (0, 1):
            counts = [sum(data[i]["label"] == label for i in part) for part in parts]
            assert max(counts) - min(counts) <= 1
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(is_safe=st.lists(st.booleans(), max_size=40), world_size=st.integers(1, 12))
def test_safe_and_unsafe_places_are_dealt_in_slices_and_every_place_goes_to_one_process(is_safe, world_size):
    shares = [share_of(is_safe, rank, world_size) for rank in range(world_size)]
    assert sorted(place for share in shares for place in share) == list(range(len(is_safe)))
    for label in (True, False):
        of_label = [[place for place in share if is_safe[place] is label] for share in shares]
        places = [place for place, safe in enumerate(is_safe) if safe is label]
        assert [place for part in of_label for place in part] == places  # neighbours stay neighbours, in rank order
        assert max(map(len, of_label)) - min(map(len, of_label)) <= 1
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_eight_and_eight_on_two_processes_are_four_and_four_each():
    halves = [True] * 8 + [False] * 8
    assert share_of(halves, 0, 2) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert share_of(halves, 1, 2) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_share_may_be_empty():
    shares = [next(iter(BatchPreservingSampler(rows([2]), 2, rank=r, world_size=4))) for r in range(4)]
    assert sorted(shares) == [[], [], [0], [1]]


def test_the_order_is_a_function_of_seed_and_epoch_that_no_library_can_change():
    assert seeded_order(8, seed=0, epoch=0) == [6, 7, 5, 3, 2, 0, 4, 1]  # by sha256sum and sort
    assert seeded_order(8, seed=0, epoch=1) != seeded_order(8, seed=0, epoch=0)
    assert seeded_order(8, seed=1, epoch=0) != seeded_order(8, seed=0, epoch=0)


def test_samples_keep_their_place_even_where_the_rows_are_mixed():
    data = [
        {"batch_idx": 1, "in_batch_idx": 1, "label": 1},
        {"batch_idx": 0, "in_batch_idx": 1, "label": 1},
        {"batch_idx": 1, "in_batch_idx": 0, "label": 0},
        {"batch_idx": 0, "in_batch_idx": 0, "label": 0},
    ]
    assert list(BatchPreservingSampler(data, 2, shuffle_batches=False)) == [[3, 1], [2, 0]]
    assert list(BatchPreservingSampler(Dataset.from_list(data), 2, shuffle_batches=False)) == [[3, 1], [2, 0]]


def test_a_batch_larger_than_the_analysis_batch_is_refused():
    with pytest.raises(InvalidInput, match="batch 1 holds 5 samples"):
        BatchPreservingSampler(rows([4, 5]), 4)


def test_rows_without_batches_are_refused():
    with pytest.raises(InvalidInput, match="batch_idx"):
        BatchPreservingSampler([{"label": 0}], 4)


@given(n=st.integers(1, 40), batch_size=st.integers(1, 9), epoch=st.integers(0, 5), world_size=st.integers(1, 3))
def test_the_baseline_draws_every_sample_once_in_batches_of_the_same_size(n, batch_size, epoch, world_size):
    shares = []
    for rank in range(world_size):
        sampler = ShuffledSampler([{}] * n, batch_size, seed=3, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    steps = [[i for share in parts for i in share] for parts in zip(*shares, strict=True)]
    assert sorted(i for step in steps for i in step) == list(range(n))
    assert all(len(step) == batch_size for step in steps[:-1])
