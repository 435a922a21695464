"""Texts and labels of the user's own tables: which columns, which kind, what is refused; overview and weights."""

import json

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from adapters_jax.data import labels, overview, own, tfds
from adapters_jax.data.bad import KEPT, BadRows
from adapters_jax.data.columns import Columns
from adapters_jax.data.own import Form, read_own
from adapters_jax.data.places import open_table
from adapters_jax.data.source import Features, as_source
from adapters_jax.data.tables import table_of
from adapters_jax.errors import ConfigError, DataError


def table(rows, name="a.jsonl"):
    return table_of(name, name, tuple(dict.fromkeys(key for row in rows for key in row)), list(enumerate(rows, 1)))


def read(rows, told=None, like=None, labelled=True, bad=None):
    return read_own(table(rows), told or Form(), bad or BadRows(), like, labelled)


def two(*more, **values):
    return [{"text": "a", "label": "x"} | values, {"text": "b", "label": "y"} | values, *more]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("text", "label"), Columns("text", None, "label")),
        (("Sentence", "Label", "idx"), Columns("Sentence", None, "Label", "idx")),
        (("sentence1", "sentence2", "score"), Columns("sentence1", "sentence2", "score")),
        (("premise", "hypothesis", "label", "id"), Columns("premise", "hypothesis", "label", "id")),
        (("what they said", "label"), Columns("what they said", None, "label")),
        (("title", "text", "label", "score"), Columns("text", None, "label")),
    ],
)
def test_columns_are_guessed_from_their_usual_names(columns, expected):
    rows = [dict.fromkeys(columns, f"{n}") for n in range(2)]
    from adapters_jax.data.columns import find_columns

    assert find_columns(table(rows), Columns()) == expected


@pytest.mark.parametrize(
    ("rows", "told", "match"),
    [
        (
            [{"title": "a", "body": "b", "label": "x"}],
            Columns(),
            "expected one column with the text, got title, body am",
        ),
        (
            [{"text": "a", "class": "b", "score": "x"}],
            Columns(),
            "one column with the label, got class, score among text",
        ),
        (
            [{"text": "a", "b": "b"}],
            Columns(),
            "the label, got none of a usual name among text, b; name it with --label",
        ),
        (
            [{"text": "a", "label": "x"}],
            Columns(label="lable"),
            "unknown column 'lable': known are text, label; did you",
        ),
        ([{"text": "a", "label": "x"}], Columns("text", "text"), "expected different columns for texts, label and id"),
    ],
)
def test_columns_that_cannot_be_guessed_are_refused_with_those_there_are(rows, told, match):
    with pytest.raises(DataError, match=match):
        read(rows, Form(told))


@pytest.mark.parametrize(
    ("given", "kind", "names", "numbers"),
    [
        (["b", "a", " b "], "single", ("a", "b"), [1, 0, 1]),
        (["10", "9", "10"], "single", ("9", "10"), [1, 0, 1]),
        ([1, 0, 1.0], "regression", (), [1.0, 0.0, 1.0]),
        ([True, False, True], "single", ("false", "true"), [1, 0, 1]),
        (["1.5", "2", "-3e1"], "regression", (), [1.5, 2.0, -30.0]),
        ([["b", "a"], [], ["b", "b"]], "multi", ("a", "b"), [(0, 1), (), (1,)]),
    ],
)
def test_the_kind_is_seen_by_the_labels(given, kind, names, numbers):
    source, form, _ = read([{"text": "t", "label": label} for label in given])
    assert (form.kind, source.features.labels) == (kind, names)
    assert [row["label"] for row in source] == numbers
    assert Form.of(json.loads(json.dumps(form.to_dict()))) == form


def test_the_kind_can_be_told():
    cells = [{"text": "t", "label": label} for label in ("b|a", "", "b")]
    assert [row["label"] for row in read(cells, Form(kind="multi")).source] == [(0, 1), (), (1,)]
    commas = [{"text": "t", "label": label} for label in ("b, a", "b")]
    assert [row["label"] for row in read(commas, Form(separator=",")).source] == [(0, 1), (1,)]
    whole = [{"text": "t", "label": label} for label in (1.0, 0.0, 1)]
    assert read(whole, Form(kind="single")).source.features.labels == ("0", "1")
    assert read(whole, Form(kind="regression")).source.features.kind == "regression"


def test_values_taken_for_classes_are_refused():
    rows = [{"text": "t", "label": str(n)} for n in range(60)]
    with pytest.raises(DataError, match="expected classes that recur, got 60 different labels in 60 rows"):
        read(rows)
    assert len(read(rows, Form(kind="single")).source.features.labels) == 60


@pytest.mark.parametrize(
    ("row", "told", "match"),
    [
        ({"text": " ", "label": "x"}, Form(), "expected a text in column 'text', got an empty one"),
        ({"label": "x"}, Form(), "expected a text in column 'text', got none"),
        ({"text": 5, "label": "x"}, Form(), "expected a text in column 'text', got 5"),
        ({"text": "c"}, Form(), "expected a label, got none"),
        ({"text": "c", "label": float("nan")}, Form(), "expected a label, got none"),
        ({"text": "c", "label": ""}, Form(), "expected a label, got none"),
        ({"text": "c", "label": {"x": 1}}, Form(kind="single"), "expected the name or number of a class, got {'x': 1}"),
        ({"text": "c", "label": "x||y"}, Form(separator="|"), "expected the name or number of a class, got ''"),
    ],
)
def test_bad_rows_are_refused_with_their_line_or_skipped(row, told, match):
    with pytest.raises(DataError, match=f"^a.jsonl:3: {match}".replace("||", r"\|\|")):
        read(two(row), told)
    rows = BadRows("skip")
    assert [each["text"] for each in read(two(row, {"text": "d", "label": "y"}), told, bad=rows).source] == [
        "a",
        "b",
        "d",
    ]
    assert rows.skipped == 1


def test_labels_that_are_no_numbers_and_labels_that_train_has_not():
    values = [{"text": "t", "label": 1.5}, {"text": "t", "label": "high"}]
    with pytest.raises(DataError, match="a.jsonl:2: expected a number as the label, got 'high'"):
        read(values, Form(kind="regression"))
    train, form, _ = read(two())
    with pytest.raises(DataError, match="a.jsonl:3: expected a label of the rows to train on: unknown label 'z'"):
        read(two({"text": "c", "label": "z"}), form, train.features)
    assert [row["label"] for row in read(two()[1:], form, train.features).source] == [1]


def test_test_rows_may_lack_labels_but_all_of_them_then():
    train, form, _ = read(two())
    bare = [{"text": "a"}, {"text": "b"}]
    for rows in (bare, [row | {"label": None} for row in bare], [row | {"label": ""} for row in bare]):
        assert all("label" not in row for row in read(rows, form, train.features, labelled=False).source)
    with pytest.raises(DataError, match="a.jsonl:2: expected a label, got none"):
        read([two()[0], {"text": "b"}], form, train.features, labelled=False)


def test_ids():
    named = [row | {"id": name} for row, name in zip(two(), ("p", "q"), strict=True)]
    assert [row["id"] for row in read(named).source] == ["p", "q"]
    assert [row["id"] for row in read(two(id="p")).source] == ["1", "2"]  # a guessed column that is no id
    with pytest.raises(DataError, match="a.jsonl:2: expected another id in each row, got 'p' as in line 1"):
        read(two(id="p"), Form(Columns(id="id")))
    assert read(named).form.columns.id is None
    assert read(named).read == ("text from 'text', label from 'label' (single)",)
    assert read(two(id="p")).read[1] == "column id: 'p' stands in lines 1 and 2, rows are named by line"
    assert read([*named, {"text": "c", "label": "x"}]).read[1:] == (
        "column id: None stands in line 3, rows are named by line",
    )


def test_the_kind_is_that_of_the_rows_trained_on():
    texts = lambda *labels: [{"text": "t", "label": label} for label in labels]
    floats = Features(("text",), ("0.0", "1.0"))
    assert [row["label"] for row in read(texts("1.0", "0.0"), like=floats).source] == [1, 0]
    values = Features(("text",), (), "regression")
    assert [row["label"] for row in read(texts("1", "3"), like=values).source] == [1.0, 3.0]
    many = Features(("text",), tuple(str(n) for n in range(30)))
    found = read(texts(*(str(n) for n in range(30))), like=many)
    assert [row["label"] for row in found.source] == list(range(30)) and found.form.kind == "single"
    with pytest.raises(DataError, match="expected labels of the kind trained on, regression, got single"):
        read(texts("1"), Form(kind="single"), values)


def test_labels_and_ids_that_cannot_be_written_are_refused():
    rows = BadRows("skip")
    source = read(two({"text": "c", "label": "\ud800"}), bad=rows).source
    assert len(source) == 2 and "a.jsonl:3: expected the name or number of a class, got '\\ud800'" in rows.messages[0]
    named = [row | {"id": name} for row, name in zip(two(), ("p", "\udfff"), strict=True)]
    assert [row["id"] for row in read(named).source] == ["1", "2"]
    with pytest.raises(DataError, match="a.jsonl:2: expected an id in column 'id', got"):
        read(named, Form(Columns(id="id")))


def test_labels_of_very_many_digits():
    with pytest.raises(DataError, match="a.jsonl:2: expected a number as the label, got 1000"):
        read([{"text": "t", "label": 1.5}, {"text": "t", "label": 10**401}])
    long = "1" * 5000
    assert read([{"text": "t", "label": label} for label in (long, "2", "10")]).source.features.labels == (
        "10",
        long,
        "2",
    )


def test_the_nearest_label_is_looked_for_where_somebody_sees_it(monkeypatch):
    train = read(two()).source
    called = []
    monkeypatch.setattr(own, "unknown", lambda *args: called.append(args) or "unknown")
    rows = BadRows("skip")
    read([*two(), *({"text": "c", "label": f"z{n}"} for n in range(50))], like=train.features, bad=rows)
    assert rows.skipped == 50 and len(called) == len(rows.messages) == KEPT


def test_tables_of_very_many_columns_or_one_that_should_be_several():
    rows = [{f"column {n}": "a" for n in range(1000)}]
    with pytest.raises(DataError, match="column 19 and 980 more; name it with --label") as caught:
        read(rows)
    assert len(str(caught.value)) < 500
    with pytest.raises(DataError, match="did you mean 'column 999'\\?; there are 1,000 columns") as caught:
        read(rows, Form(Columns(text="colum 999")))
    assert len(str(caught.value)) < 500
    for told in (Columns(), Columns(text="text")):
        with pytest.raises(DataError, match=r"if ';' stands between columns, put commas \(.csv\) or tabs \(.tsv\)"):
            read([{"text;label": "a;x"}], Form(told))


def test_nothing_left_and_one_class():
    with pytest.raises(DataError, match=r"expected at least one row that can be used, got none; 1 row was skipped"):
        read([{"text": "", "label": "x"}], bad=BadRows("skip"))
    with pytest.raises(DataError, match="expected labels of at least 2 classes, got only 'x'"):
        read([{"text": "a", "label": "x"}] * 3)


def test_forms_of_strangers():
    for stored in ({}, {"columns": {"text": 5}}, {"columns": {}, "kind": "all"}, {"columns": {"txt": "a"}}):
        with pytest.raises(ConfigError, match="form of the rows: expected columns, kind and separator"):
            Form.of(stored)


def test_balanced_weights_are_scikit_learns():
    for case in range(50):
        names = np.random.default_rng(case).choice(["a", "b", "c"], 30)
        source = read([{"text": "t", "label": str(name)} for name in names]).source
        expected = compute_class_weight("balanced", classes=np.unique(names), y=names)
        found = labels.balanced(source)
        assert list(found.values()) == pytest.approx(expected.tolist())
        rows = labels.weighted(source, found)
        assert [row["weight"] for row in rows] == pytest.approx([expected["abc".index(name)] for name in names])
    several = read([{"text": "t", "label": label} for label in (["a"], ["a", "b"], ["a"], [])]).source
    assert labels.balanced(several) == {"a": pytest.approx(1 / 3), "b": 3.0}
    with pytest.raises(ConfigError, match="--class-weights: expected classes, got values"):
        labels.balanced(as_source([{"text": "a", "label": 1.5}]))


def test_the_overview_counts():
    rows = [("A  cat", "x"), ("a cat", "y"), ("a dog", "x"), ("a dog", "x")]
    train = read([{"text": text, "label": label} for text, label in rows]).source
    found = overview.overview(train, np.array([4, 4, 9, 30]), 8)
    assert found == {
        "source": "a.jsonl",
        "rows": 4,
        "classes": {"x": 3, "y": 1},
        "tokens": {"rows": 4, "median": 6, "95%": 30, "longest": 30},
        "truncated": 2,
        "duplicates": 2,
        "conflicting": 1,
    }
    dev = as_source([{"text": "A DOG"}, {"text": "a bird"}])
    assert overview.shared_rows(train, dev) == 1
    lines = overview.lines_of({"train": found, "dev": overview.overview(dev, np.array([4, 4]), 8) | {"in_train": 1}})
    assert "2 classes: x 3, y 1; tokens: median 6, 95 % up to 30, longest 30; 2 truncated" in lines[0]
    sampled = overview.overview(train, np.array([4, 9]), 8) | {"read": ["text from 'text'"]}
    assert overview.lines_of({"train": sampled})[0] == "train: text from 'text'"
    assert "tokens (of a sample of 2 rows): median 6, " in overview.lines_of({"train": sampled})[1]
    assert lines[1] == "train: 2 rows repeat the text of an earlier one, 1 with another label"
    assert "dev: 2 rows of rows; no labels; " in lines[2] and "1 of its rows have a text that is trained on" in lines[3]


def test_prepared_sets(tmp_path):
    from tests.data.test_tfds import prepare

    prepare(tmp_path, "sst2", ("sentence",), ["bad", "good"], {"train": 4, "validation": 2, "test": 2})
    bad = BadRows()
    where = lambda name, role="train": open_table(name, bad, role, tmp_path)
    train, form, _ = read_own(where("tfds:glue/sst2"), Form(), bad)
    assert (len(train), train.features.labels, form.columns.text) == (4, ("bad", "good"), "sentence")
    assert all(row["text"].endswith(f" {('bad', 'good')[row['label']]} é") for row in train)
    assert train.name == "glue/sst2/train"
    assert len(read_own(where("tfds:glue/sst2", "dev"), form, bad, train.features).source) == 2
    test = read_own(where("tfds:glue#test"), form, bad, train.features, labelled=False).source
    assert len(test) == 2 and "label" not in test[0]  # the only configuration; labels of -1
    assert tfds.find(str(tmp_path / "glue" / "sst2" / "2.0.0"), tmp_path).name == "2.0.0"


def test_a_set_prepared_in_another_format_is_named(tmp_path):
    from tests.data.test_tfds import prepare

    prepare(tmp_path, "sst2", ("sentence",), ["bad", "good"], {"train": 4})
    info = tmp_path / "glue" / "sst2" / "2.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match="prepare it again with `tfds build glue/sst2 --file_format=array_record`"):
        open_table("tfds:glue/sst2", BadRows(), "train", tmp_path)
