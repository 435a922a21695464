"""Batches: every row once, a function of (seed, step), few lengths, little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_jax.data.batches import BUCKETS, Batches, bucket_of, buckets, eval_batches, make_batch
from adapters_jax.data.glue import find_data
from adapters_jax.data.tokenize import Encoded, encode

lengths_of_rows = st.lists(st.integers(2, 64), min_size=1, max_size=200).map(np.array)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def rows_of(lengths, max_length=64):
    """Rows of the given lengths, whose tokens are their row's number plus 1, labelled with it."""
    n = len(lengths)
    return Encoded(
        ids=np.repeat(np.arange(1, n + 1, dtype=np.int32), lengths),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        second=np.asarray(lengths, np.int32),
        labels=np.arange(n, dtype=np.int32),
        truncated=0,
        max_length=max_length,
    )


def epoch(batches, number=0):
    steps = batches.steps_per_epoch
    return [batches.rows(step) for step in range(number * steps, (number + 1) * steps)]


@given(lengths_of_rows, batch_sizes, seeds, st.integers(0, 3))
def test_an_epoch_has_every_row_once(lengths, batch_size, seed, number):
    batches = Batches(lengths, batch_size, seed, 64)
    taken = epoch(batches, number)
    assert len(taken) == batches.steps_per_epoch == -(-len(lengths) // batch_size)
    ids = np.concatenate([rows for rows, _ in taken])
    assert sorted(ids[ids >= 0]) == list(range(len(lengths)))
    assert all(rows.shape == (batch_size,) and rows.dtype == np.int64 for rows, _ in taken)
    assert sum((rows < 0).any() for rows, _ in taken) <= 1, "more than one batch is filled up"


@given(lengths_of_rows, batch_sizes, seeds)
def test_rows_fit_and_lengths_are_buckets_that_do_not_depend_on_the_epoch(lengths, batch_size, seed):
    batches = Batches(lengths, batch_size, seed, 64)
    for number in range(2):
        taken = epoch(batches, number)
        assert {length for _, length in taken} == set(batches.lengths_used) <= set(buckets(64))
        for rows, length in taken:
            assert lengths[rows[rows >= 0]].max() <= length


@given(lengths_of_rows, batch_sizes, seeds, st.data())
def test_any_step_gives_the_same_rows_to_a_process_that_starts_there(lengths, batch_size, seed, data):
    whole = Batches(lengths, batch_size, seed, 64)
    taken = [whole.rows(step) for step in range(3 * whole.steps_per_epoch)]
    step = data.draw(st.integers(0, len(taken) - 1))
    rows, length = Batches(lengths.copy(), batch_size, seed, 64).rows(step)
    np.testing.assert_array_equal(rows, taken[step][0])
    assert length == taken[step][1]


def test_epochs_and_seeds_differ():
    lengths = np.random.RandomState(0).randint(4, 60, 500)
    first = Batches(lengths, 16, 0, 64)
    orders = [np.concatenate([rows for rows, _ in epoch(b, n)]) for b, n in ((first, 0), (first, 1))]
    orders.append(np.concatenate([rows for rows, _ in epoch(Batches(lengths, 16, 1, 64))]))
    for i in range(3):
        for j in range(i):
            assert np.mean(orders[i] == orders[j]) < 0.05
    companies = [{frozenset(rows.tolist()) for rows, _ in epoch(first, n)} for n in range(2)]
    assert not companies[0] & companies[1], "a batch of the same rows came again"


def test_the_order_is_frozen():
    """Runs that were interrupted go on after an upgrade: these numbers may never change."""
    batches = Batches(np.array([5, 9, 30, 7, 12, 60, 8, 21]), 3, 7, 64)
    found = [(rows.tolist(), length) for rows, length in (batches.rows(step) for step in range(6))]
    assert found == [
        ([6, 1, 4], 12),
        ([7, 2, 5], 64),
        ([-1, 0, 3], 8),
        ([7, 2, 5], 64),
        ([6, 1, 4], 12),
        ([-1, 3, 0], 8),
    ]


def test_rows_are_shared_so_they_cannot_be_written():
    rows, _ = Batches(np.array([3, 4, 5]), 2, 0, 16).rows(0)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


@pytest.mark.parametrize("max_length", [3, 8, 50, 128, 512, 1000])
def test_buckets_are_cut_at_max_length(max_length):
    sizes = buckets(max_length)
    assert sizes[-1] == max_length
    assert (np.diff(sizes) > 0).all()
    assert set(sizes[:-1]) <= set(BUCKETS)
    found = bucket_of(np.arange(2, max_length + 1), max_length)
    assert (found >= np.arange(2, max_length + 1)).all()
    with pytest.raises(AssertionError, match="tokens"):
        bucket_of(np.array([max_length + 1]), max_length)


@given(lengths_of_rows, batch_sizes)
def test_evaluation_has_every_row_once_whatever_the_batch_size(lengths, batch_size):
    encoded, seen = rows_of(lengths), []
    for ids, batch in eval_batches(encoded, batch_size):
        real = ids >= 0
        assert batch["input_ids"].shape == (batch_size, batch["input_ids"].shape[1])
        assert batch["input_ids"].shape[1] in buckets(64)
        np.testing.assert_array_equal(batch["weight"], real)
        np.testing.assert_array_equal(batch["labels"][real], ids[real])
        np.testing.assert_array_equal(batch["input_ids"][:, 0], ids + 1)
        seen += ids[real].tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_a_batch_is_what_the_rows_say():
    encoded = rows_of([2, 3])
    batch = make_batch(encoded, np.array([1, -1]), 8)
    np.testing.assert_array_equal(batch["input_ids"], [[2, 2, 2, 0, 0, 0, 0, 0], [0] * 8])
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch["weight"], [1, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("task", "of_128", "of_batch_maximum"), [("sst2", 7.5, 2.4), ("mnli", 2.7, 1.9)])
def test_real_lengths_are_padded_little(shared_data, minilm, task, of_128, of_batch_maximum):
    train = find_data(task, "files", shared_data / "glue").train
    lengths = encode(train, minilm.tokenizer, 128).lengths
    batches = Batches(lengths, 32, 0, 128)
    padded = 32 * sum(length for _, length in epoch(batches))
    order = np.random.RandomState(0).permutation(len(lengths))
    by_batch = 32 * sum(lengths[order[i : i + 32]].max() for i in range(0, len(lengths), 32))
    assert 32 * 128 * batches.steps_per_epoch / padded > of_128
    assert by_batch / padded > of_batch_maximum
    assert len(batches.lengths_used) <= 9
