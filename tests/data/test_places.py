"""Where tables are: places that are none, folders of texts."""

from pathlib import Path

import pytest

from adapters_jax.data.bad import BadRows
from adapters_jax.data.places import open_table
from adapters_jax.errors import AdaptersJaxError, DataError
from tests.data.test_tables import put, values


def test_places_that_are_none(tmp_path):
    for where, match in (
        (str(tmp_path / "none.csv"), "expected a file or folder, got nothing there"),
        (str(put(tmp_path / "a.xlsx", b"x")), r"expected a file that ends in \.csv, .*, got \.xlsx"),
        (f"{put(tmp_path / 'a.csv', b'a')}#train", "expected a place with splits before the #"),
        (str(tmp_path), r"expected \.txt files, each a text, got none"),
        ("", "'': expected a file, a folder or tfds:NAME, got none"),
        ("#train", "'#train': expected a file, a folder or tfds:NAME, got none"),
        ("tfds:", "'tfds:': expected a file, a folder or tfds:NAME, got none"),
        ("\udcff.csv", "got a name that is not UTF-8"),
        ("x" * 300, "xxx: expected a place that can be read, got: File name too long"),
        ("~nobody-of-this-name/x.csv", "x.csv: expected a place that can be read, got: Could not determine home"),
        ("tfds:~nobody-of-this-name/x", "x: expected a place that can be read, got: Could not determine home"),
        ("tfds:none", "tfds:none: expected a prepared set in .*, got none; prepare it with"),
    ):
        with pytest.raises(AdaptersJaxError, match=match):
            open_table(where, BadRows(), tfds_dir=tmp_path)


def test_a_place_without_permission_and_one_with_a_sharp_in_its_name(tmp_path, monkeypatch):
    put(tmp_path / "a#b.csv", b"text\na\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert values(open_table("~/a#b.csv", BadRows())) == [{"text": "a"}]

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="expected a place that can be read, got: Permission denied"):
        open_table(str(tmp_path), BadRows())


def test_nothing_in_a_folder_of_classes_is_left_out_in_silence(tmp_path):
    names = "pos/1.txt pos/2.TXT pos/3.text pos/deep/4.txt neg/1.txt neg/.hidden none/a.csv stray.txt .DS_Store"
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    rows = BadRows("skip")
    found = [row.id for row in open_table(str(tmp_path), rows).rows(("text",))]
    assert found == ["neg/1.txt", "pos/1.txt", "pos/2.TXT"] and rows.skipped == 5
    assert rows.messages == [
        f"{tmp_path}/stray.txt: expected nothing beside the folders of classes, got a file",
        f"{tmp_path}/none/a.csv: expected a .txt file, got another file",
        f"{tmp_path}/none: expected .txt files of a class, each a text, got none",
        f"{tmp_path}/pos/3.text: expected a .txt file, got another file",
        f"{tmp_path}/pos/deep: expected a .txt file, got a folder",
    ]
    with pytest.raises(DataError, match="stray.txt: expected nothing beside"):
        open_table(str(tmp_path), BadRows())


def test_a_folder_of_texts_per_class(tmp_path):
    for name, text in (("pos/1.txt", "good\n"), ("pos/2.txt", "fine"), ("neg/1.txt", "bad"), (".git/x.txt", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "neg" / "2.txt").write_bytes(b"line\n\xff")
    rows = BadRows("skip")
    table = open_table(str(tmp_path), rows)
    assert [(row.id, dict(row.values)) for row in table.rows(table.columns)] == [
        ("neg/1.txt", {"text": "bad", "label": "neg"}),
        ("pos/1.txt", {"text": "good\n", "label": "pos"}),
        ("pos/2.txt", {"text": "fine", "label": "pos"}),
    ]
    assert rows.messages == [f"{tmp_path / 'neg/2.txt'}:2: expected UTF-8, got the byte 0xff"]
    assert values(open_table(str(tmp_path / "pos"), BadRows())) == [{"text": "good\n"}, {"text": "fine"}]
