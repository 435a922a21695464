"""A held-out share: seeded, stratified, and no text on both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_jax.data.source import as_source
from adapters_jax.data.splitting import hold_out, same_text
from adapters_jax.errors import ConfigError


def source(labels, texts=None):
    texts = texts or [f"text {n}" for n in range(len(labels))]
    return as_source([{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)], name="mine")


def test_each_class_gets_its_share_and_the_seed_decides():
    rows = source(["a"] * 600 + ["b"] * 300 + ["c"] * 100)
    first = hold_out(rows, 0.1, 7)
    assert [[row["label"] for row in first.dev].count(number) for number in range(3)] == [60, 30, 10]
    assert len(first.train) == 900 and first.record["dev"] == 100
    again, other = hold_out(rows, 0.1, 7), hold_out(rows, 0.1, 8)
    assert again.record == first.record and other.record["dev_ids_sha256"] != first.record["dev_ids_sha256"]
    assert first.dev.indices.tolist() == sorted(first.dev.indices)
    assert first.dev.indices.tolist() != list(range(540, 600)) + list(range(870, 900)) + list(range(990, 1000))


def test_several_classes_and_values_are_stratified_too():
    several = source([["a"]] * 80 + [["a", "rare"]] * 20 + [[]] * 100)
    kept = [row["label"] for row in hold_out(several, 0.2).dev]
    assert (len(kept), sum(1 in label for label in kept), kept.count(())) == (40, 4, 20)
    values = hold_out(source([float(n) for n in range(1000)]), 0.1).dev
    found = np.array([row["label"] for row in values])
    assert [int(((found >= low) & (found < low + 100)).sum()) for low in range(0, 1000, 100)] == [10] * 10


@given(
    st.lists(
        st.tuples(st.sampled_from(["A cat", "a  CAT", "dog", "ﬁsh", "fish", "x", "y"]), st.sampled_from("ab")),
        min_size=2,
        max_size=30,
    ),
    st.floats(0.05, 0.6),
    st.integers(0, 5),
)
def test_no_row_is_lost_and_no_text_is_on_both_sides(rows, share, seed):
    texts, labels = zip(*rows, strict=True)
    given_rows = source(list(labels), list(texts))
    try:
        split = hold_out(given_rows, share, seed)
    except ConfigError as error:
        assert "expected enough rows to hold some out" in str(error)
        return
    assert sorted([*split.train.indices, *split.dev.indices]) == list(range(len(rows)))
    assert not {same_text(row) for row in split.train} & {same_text(row) for row in split.dev}
    assert len(split.dev) <= round(share * len(rows)) and len(split.train) > 0


def test_a_class_with_one_text_stays_in_train():
    rows = source(["a"] * 20 + ["rare"])
    for seed in range(20):
        assert 1 not in [row["label"] for row in hold_out(rows, 0.4, seed).dev]


def test_shares_that_leave_nothing():
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="--dev-share: expected a share of the rows between 0 and 1"):
            hold_out(source(["a", "b"]), share)
    with pytest.raises(ConfigError, match="expected enough rows to hold some out, got 3 with 1 different texts"):
        hold_out(source(["a", "b", "a"], ["t"] * 3), 0.5)
