"""Which words are hidden: how many, how, by what they are drawn; whole words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from adapters_jax.bert.heads.masking import hide, quota, quotas

MASK, VOCABULARY = 40_000, 30_000  # ids of the text are above the vocabulary, so that each kind can be told apart
KEYS = (None, jax.random.key(0), jax.random.key(1, impl="rbg"))


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def make(rows: int, length: int, sizes=(1,), seed: int = 0, full: bool = False) -> dict[str, np.ndarray]:
    """Rows of unlike lengths, of words of these sizes, between [CLS] and [SEP]; here and there a special token."""
    draw = np.random.default_rng(seed)
    words = np.zeros((rows, length), np.int32)
    for row in range(rows):
        count = length - 2 if full else draw.integers(0, length - 1)
        pieces = np.repeat(np.arange(1, length), draw.choice(sizes, length - 1))[:count]
        words[row, 1 : 1 + count] = pieces
        if not full and count > 4:
            words[row, draw.integers(1, 1 + count)] = 0
    ids = 50_000 + np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    return {"input_ids": ids, "words": words, "row": draw.permutation(rows).astype(np.int32)}


def hidden(batch, key=None, whole_word=False) -> dict[str, np.ndarray]:
    run = jax.jit(lambda batch: hide(batch, key, MASK, VOCABULARY, whole_word))
    return {name: np.asarray(value) for name, value in run(batch).items()}


def sets(found) -> list[dict[int, int]]:
    """Of each row, the chosen positions and what stands there now."""
    return [
        {int(p): int(ids[p]) for p in positions[chosen]}
        for positions, chosen, ids in zip(found["positions"], found["chosen"], found["input_ids"], strict=True)
    ]


def test_fifteen_percent_at_least_one():
    assert [quota(n) for n in (0, 1, 9, 10, 11, 30, 31, 126, 510)] == [0, 1, 1, 2, 2, 4, 5, 19, 76]
    assert quotas(510).tolist() == [quota(n) for n in range(511)]


@pytest.mark.parametrize("key", KEYS, ids=("fixed", "step", "rbg"))
def test_exactly_the_quota_of_eligible_tokens_is_hidden_and_known(key):
    batch = make(64, 48)
    found = hidden(batch, key)
    for row, places in enumerate(sets(found)):
        assert len(places) == quota(int((batch["words"][row] > 0).sum()))
        assert all(batch["words"][row, place] > 0 for place in places)
        others = [place for place in range(48) if place not in places]
        np.testing.assert_array_equal(found["input_ids"][row, others], batch["input_ids"][row, others])
    np.testing.assert_array_equal(found["targets"], np.take_along_axis(batch["input_ids"], found["positions"], 1))
    assert found["positions"].shape == (64, quota(48))


@pytest.mark.parametrize("key", KEYS, ids=("fixed", "step", "rbg"))
def test_eighty_ten_ten_evenly_over_places_and_words(key):
    batch = make(2000, 42, full=True)
    found = hidden(batch, key)
    now = np.take_along_axis(found["input_ids"], found["positions"], 1)[found["chosen"]]
    kinds = np.array([(now == MASK).sum(), (now < VOCABULARY).sum(), (now >= 50_000).sum()])
    assert kinds.sum() == 2000 * quota(40)
    # Bounds that a sound draw passes 999 times in 1000.
    assert stats.chisquare(kinds, kinds.sum() * np.array([0.8, 0.1, 0.1])).pvalue > 1e-3
    places = np.bincount(found["positions"][found["chosen"]], minlength=42)
    assert places[[0, 41]].sum() == 0
    # Places of a row are drawn without replacement: their counts vary less than independent ones, by 1 - 6/40.
    assert stats.chi2.sf(((places[1:41] - 300) ** 2 / (300 * (1 - 6 / 40))).sum() * 39 / 40, 39) > 1e-3
    words = np.histogram(now[now < VOCABULARY], bins=20, range=(0, VOCABULARY))[0]
    assert stats.chisquare(words).pvalue > 1e-3


def test_draws_of_rows_and_steps_are_independent():
    batch = make(1000, 42, full=True)
    chosen = np.zeros((2, 1000, 42), bool)
    for step in (0, 1):
        for row, places in enumerate(sets(hidden(batch, jax.random.key(step)))):
            chosen[step, row, list(places)] = True
    # Two unrelated choices of 6 of 40 share 0.9 on average, with a variance of 0.9 * 34/40 * 34/39.
    deviation = np.sqrt(0.9 * 34 / 40 * 34 / 39 / 1000)
    assert abs((chosen[0] & chosen[1]).sum(1).mean() - 0.9) < 4 * deviation
    order = np.argsort(batch["row"])
    assert abs((chosen[0][order[1:]] & chosen[0][order[:-1]]).sum(1).mean() - 0.9) < 4 * deviation


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=("fixed", "step"))
@pytest.mark.parametrize("whole_word", [False, True])
def test_a_row_s_masks_depend_on_its_number_alone(key, whole_word):
    batch = make(32, 24, sizes=(1, 2, 3))
    whole = sets(hidden(batch, key, whole_word))
    some = np.array([20, 3, 31])
    wide = {name: np.pad(batch[name][some], ((0, 0), (0, 40))) for name in ("input_ids", "words")}
    assert sets(hidden(wide | {"row": batch["row"][some]}, key, whole_word)) == [whole[i] for i in some]
    other = sets(hidden(batch | {"row": batch["row"] + 100}, key, whole_word))
    assert sum(a.keys() != b.keys() for a, b in zip(whole, other, strict=True)) >= 16


def test_each_step_hides_other_words():
    batch = make(8, 48, full=True)
    first, again, second = (sets(hidden(batch, jax.random.key(seed))) for seed in (0, 0, 1))
    assert first == again
    assert all(a.keys() != b.keys() for a, b in zip(first, second, strict=True))


def test_whole_words_fill_the_quota_as_far_as_they_fit():
    batch = make(300, 40, sizes=(1, 1, 2, 3, 5), seed=3)
    found = sets(hidden(batch, jax.random.key(0), whole_word=True))
    full = 0
    for words, places in zip(batch["words"], found, strict=True):
        sizes = np.bincount(words, minlength=2)[1:]
        taken = np.bincount(words[list(places)], minlength=len(sizes) + 1)[1:] if places else np.zeros_like(sizes)
        assert ((taken == 0) | (taken == sizes)).all()
        room = quota(int((words > 0).sum())) - len(places)
        assert room >= 0
        left = sizes[(sizes > 0) & (taken == 0)]
        assert not len(left) or left.min() > room  # no other word would have fitted
        full += room == 0
    assert full > 200


def test_words_of_several_pieces_have_their_share():
    words = np.tile(np.array([0, *np.repeat(np.arange(1, 21), [1, 2] * 10), 0], np.int32), (3000, 1))
    batch = {"input_ids": words + 50_000, "words": words, "row": np.arange(3000, dtype=np.int32)}
    found = sets(hidden(batch, None, whole_word=True))
    tokens = np.bincount([int(words[0, place]) for places in found for place in places], minlength=21)[1:]
    chosen = tokens / np.array([1, 2] * 10)
    # Of 30 tokens 4 are hidden. Within a size, every word has the same chance; a longer one may find too little room.
    assert tokens.sum() >= 3000 * 4 - 200
    for own in (chosen[::2], chosen[1::2]):
        assert stats.chisquare(own).pvalue > 1e-3
    assert chosen[1::2].sum() > 0.6 * chosen[::2].sum()


def test_rows_without_eligible_tokens_hide_nothing():
    batch = {"input_ids": np.ones((2, 8), np.int32), "words": np.zeros((2, 8), np.int32), "row": np.array([-1, 0])}
    for whole_word in (False, True):
        found = hidden(jax.tree.map(jnp.asarray, batch), None, whole_word)
        assert not found["chosen"].any()
        np.testing.assert_array_equal(found["input_ids"], batch["input_ids"])
