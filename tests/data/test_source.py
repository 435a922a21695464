"""Sources: lists of dicts, samples, errors."""

import numpy as np
import pytest

from adapters_jax.data import Features, ListSource, Source, as_source, take
from adapters_jax.errors import ConfigError, DataError


def numbered(n):
    return ListSource([{"text": str(i)} for i in range(n)], Features(), "numbers")


def test_names_become_classes_in_sorted_order():
    source = as_source([{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}])
    assert source.features == Features(("text",), ("no", "yes"), "classification")
    assert [source[i]["label"] for i in range(2)] == [1, 0]
    assert isinstance(source, Source)


def test_whole_numbers_are_classes_and_others_values():
    classes = as_source([{"text": "a", "text_pair": "b", "label": np.int64(2)}])
    assert classes.features == Features(("text", "text_pair"), ("0", "1", "2"), "classification")
    values = as_source([{"text": "a", "label": 1.5}, {"text": "a", "label": 2}])
    assert values.features == Features(("text",), (), "regression")
    assert values[1] == {"text": "a", "id": "1", "label": 2.0}


def test_rows_without_labels():
    source = as_source([{"text": "a", "id": "x7"}])
    assert source[0] == {"text": "a", "id": "x7"}


def test_dev_rows_are_numbered_like_the_train_rows():
    train = as_source([{"text": "a", "label": name} for name in "abc"])
    dev = as_source([{"text": "a", "label": "c"}], like=train.features)
    assert dev[0]["label"] == 2
    assert dev.features == train.features
    with pytest.raises(DataError, match=r"row 0: unknown label 'd': known are a, b, c"):
        as_source([{"text": "a", "label": "d"}], like=train.features)
    with pytest.raises(DataError, match="expected a class number below 3, got 3"):
        as_source([{"text": "a", "label": 3}], like=train.features)
    with pytest.raises(DataError, match="expected classification with the labels"):
        as_source(as_source([{"text": "a", "label": 1.5}]), like=train.features)


def test_a_source_passes_through():
    source = numbered(3)
    assert as_source(source) is source
    assert as_source(source, like=source.features) is source


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected at least one row, got an empty list"),
        ([{"text": "a"}, {"txt": "a"}], r"row 1: unknown column 'txt': .*did you mean 'text'"),
        ([{"text": "a", "label": 1}, {"text": "a"}], "row 1: expected the columns of row 0"),
        ([{"text": "a", "text_pair": "b"}, {"text": "a"}], "row 1: expected the columns of row 0"),
        ([{"text": b"a"}], "row 0: expected 'text' to be a string, got b'a'"),
        ([{"label": 1}], "row 0: expected 'text' to be a string, got None"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "x"}], "expected labels of one kind .*, got int, str"),
        ([{"text": "a", "label": -1}], "expected class numbers from 0, got -1"),
        ([{"text": "a", "label": float("nan")}], "row 0: expected a finite number as the label, got nan"),
        (7, "expected a list of dicts or a source with features, got int"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(DataError, match=message) as caught:
        as_source(rows)
    assert "\n" not in str(caught.value)


def test_a_sample_is_fixed_nested_and_in_order():
    source = numbered(1000)
    texts = [[int(row["text"]) for row in map(take(source, n, seed=3).__getitem__, range(n))] for n in (50, 200)]
    again = take(numbered(1000), 50, seed=3)
    assert texts[0] == [int(again[i]["text"]) for i in range(50)] == sorted(set(texts[0]))
    assert set(texts[0]) < set(texts[1])
    assert texts[0] != [int(take(source, 50, seed=4)[i]["text"]) for i in range(50)]
    assert texts[0] != list(range(50))
    assert take(source, 50, seed=3).features == source.features


def test_a_sample_is_the_same_for_ever():
    sample = take(numbered(20), 5, seed=0)
    assert [sample[i]["text"] for i in range(len(sample))] == ["1", "8", "10", "18", "19"]


def test_samples_of_all_rows_and_of_none():
    source = numbered(4)
    assert take(source, 4) is source
    assert take(source, 9) is source
    assert take(source, None) is source
    with pytest.raises(ConfigError, match="expected at least 1, got 0"):
        take(source, 0)


def test_a_source_is_one_for_grain_too():
    import grain

    shuffled = grain.MapDataset.source(numbered(6)).shuffle(seed=0)
    assert sorted(shuffled[i]["text"] for i in range(6)) == ["0", "1", "2", "3", "4", "5"]
