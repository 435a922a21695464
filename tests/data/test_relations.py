"""Readers of T-REx and SemEval-2010 task 8, and the rows that are made of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from adapters_jax import testing
from adapters_jax.data.batches import eval_batches
from adapters_jax.data.relations import SEMEVAL, Marked, encode_relations, format_of, read_relations
from adapters_jax.data.source import Source, take
from adapters_jax.data.tokenize import Rows
from adapters_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def fact(sentence: str, subject: str, other: str, relation: str = "P1") -> dict:
    return {
        "uuid": f"u-{subject}",
        "relation": relation,
        "sub_label": "not used",
        "obj_label": "not used",
        "sub_surface": subject,
        "obj_surface": other,
        "masked_sentence": sentence,
    }


FACTS = [
    fact("the cat is in [MASK] .", "cat", "the bad dog", "P2"),
    fact("[MASK] and the category of a cat", "cat", "a man", "P1"),
    fact("the concatenation of [MASK]", "cat", "dog"),  # no subject
    fact("[MASK] is good", "MASK", "a cat"),  # none either: the place of the object is not the subject
    fact("C++ is in [MASK]", "C++", "good", "P2"),
]
SENTENCES = """1\t"The <e1>cat</e1> is in the <e2>dog</e2>."
Content-Container(e1,e2)
Comment: a comment

2\t"a <e2>man</e2> and <e1>who</e1>"
Other
Comment:

"""


def write(folder: Path, name: str, lines: list) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture
def trex(tmp_path: Path) -> Path:
    return write(tmp_path, "facts.jsonl", FACTS)


@pytest.fixture
def semeval(tmp_path: Path) -> Path:
    (tmp_path / "TRAIN_FILE.TXT").write_bytes(SENTENCES.replace("\n", "\r\n").encode())
    return tmp_path / "TRAIN_FILE.TXT"


def test_trex_puts_the_object_back_and_finds_the_subject(trex: Path):
    told: list[str] = []
    found = read_relations(trex, "trex", report=told.append)
    assert isinstance(found, Source)
    assert [found[n]["text"] for n in range(len(found))] == [
        "the @ cat @ is in # the bad dog # .",
        "# a man # and the category of a @ cat @",
        "@ C++ @ is in # good #",
    ]
    assert [found[n]["label"] for n in range(3)] == [1, 0, 1]
    assert found.features.labels == ("P1", "P2")
    assert [found[n]["id"] for n in range(3)] == ["u-cat", "u-cat", "u-C++"]
    assert found.skipped == 2
    assert told == [f"{trex}: 2 of 5 facts left out, whose subject does not stand in the sentence"]


def test_semeval_reads_the_official_form(semeval: Path):
    found = read_relations(semeval, "semeval")
    assert [found[n]["text"] for n in range(2)] == ["The @ cat @ is in the # dog # .", "a # man # and @ who @"]
    assert [SEMEVAL[found[n]["label"]] for n in range(2)] == ["Content-Container(e1,e2)", "Other"]
    assert found.features.labels == SEMEVAL
    assert [found[n]["id"] for n in range(2)] == ["1", "2"]
    assert [found[n]["marked"].turned for n in range(2)] == [False, True]


def test_endings_name_the_format():
    assert (format_of("a/b.jsonl"), format_of("TEST_FILE.TXT")) == ("trex", "semeval")
    with pytest.raises(ConfigError, match=r"a.csv: expected one of the endings .jsonl .trex., .txt .semeval."):
        format_of("a.csv")
    with pytest.raises(ConfigError, match="unknown format 'trexx': known are trex, semeval"):
        read_relations("a.jsonl", "trexx")


def test_marks_stand_in_front_of_the_entities(semeval: Path, tokenizer):
    rows = encode_relations(read_relations(semeval, "semeval"), tokenizer, 32)
    assert isinstance(rows, Rows)
    sign, other = (tokenizer(mark, add_special_tokens=False)["input_ids"][0] for mark in "@#")
    assert (sign, other) == (1, 1)  # the tiny vocabulary has neither
    for number, words in enumerate((("cat", "dog"), ("who", "man"))):
        ids = rows.batch(np.array([number]), 32)["input_ids"][0]
        for place, word in zip(rows.marks[number], words, strict=True):
            assert ids[place] == 1
            assert ids[place + 1] == tokenizer(word, add_special_tokens=False)["input_ids"][0]
    assert rows.marks[1][0] > rows.marks[1][1]  # the subject comes second there
    assert rows.truncated == 0 and rows.name == "TRAIN_FILE.TXT" and rows.ids == ("1", "2")


def test_the_whole_row_is_special_tokens_pieces_and_marks(trex: Path, tokenizer):
    source = read_relations(trex, "trex")
    rows = encode_relations(source, tokenizer, 64)
    ids = tokenizer("the ? cat ? is in ? the bad dog ? .".replace("?", "[UNK]"))["input_ids"]
    np.testing.assert_array_equal(rows.batch(np.array([0]), 64)["input_ids"][0, : len(ids)], ids)
    assert rows.lengths[0] == len(ids)


def test_batches_bring_marks_and_padding_rows_none(semeval: Path, tokenizer):
    rows = encode_relations(read_relations(semeval, "semeval"), tokenizer, 32)
    batch = rows.batch(np.array([1, -1]), 20)
    np.testing.assert_array_equal(batch["marks"], [rows.marks[1], [0, 0]])
    assert batch["marks"].dtype == np.int32
    np.testing.assert_array_equal(batch["weight"], [1, 0])
    np.testing.assert_array_equal(batch["labels"], [SEMEVAL.index("Other"), 0])
    assert sorted(int(n) for ids, _ in eval_batches(rows, 4) for n in ids if n >= 0) == [0, 1]
    assert any(array is rows.marks for array in rows.arrays())


def test_long_rows_keep_both_entities(tmp_path: Path, tokenizer):
    long = " ".join(["the"] * 30)
    cases = [
        fact(f"{long} cat {long} [MASK] {long}", "cat", "dog"),
        fact(f"[MASK] {long} cat", "cat", "dog"),
        fact(f"[MASK] cat {long}", "cat", " ".join(["dog"] * 30)),
    ]
    rows = encode_relations(read_relations(write(tmp_path, "a.jsonl", cases), "trex"), tokenizer, 16)
    assert rows.truncated == 3
    word = {name: tokenizer(name, add_special_tokens=False)["input_ids"][0] for name in ("cat", "dog", "the")}
    for number in range(3):
        ids = rows.batch(np.array([number]), 16)["input_ids"][0]
        subject, other = rows.marks[number]
        assert rows.lengths[number] == 16
        assert (ids[subject + 1], ids[other + 1]) == (word["cat"], word["dog"])
        assert (ids[0], ids[15]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    first = rows.batch(np.array([0]), 16)["input_ids"][0]
    assert rows.marks[0][0] == 1  # the beginning went, and the end, before what stands between them
    assert (first == word["the"]).sum() == 16 - 2 - 6
    with pytest.raises(ConfigError, match="max_length: expected at least 8 for these rows, got 7"):
        encode_relations(read_relations(tmp_path / "a.jsonl", "trex"), tokenizer, 7)


def test_a_sample_can_be_taken(trex: Path, tokenizer):
    source = take(read_relations(trex, "trex"), 2)
    rows = encode_relations(source, tokenizer, 32)
    assert len(rows) == 2 and "2 of 3" in rows.name


def test_text_has_single_blanks():
    assert Marked(("", "a", " b", "c", "."), False).text == "@ a @ b # c # ."


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["{"], "a.jsonl:1: expected a JSON object, got '{'"),
        (["[1]"], r"a.jsonl:1: expected a JSON object, got '\[1\]'"),
        (["[" * 100_000], "a.jsonl:1: expected a JSON object"),
        ([FACTS[0], {"relation": "P1"}], "a.jsonl:2: expected a text 'masked_sentence', got None"),
        ([FACTS[0] | {"obj_surface": " "}], "a.jsonl:1: expected a text 'obj_surface', got ' '"),
        ([FACTS[0] | {"relation": 1}], "a.jsonl:1: expected a text 'relation', got 1"),
        ([fact("no mask, a cat", "cat", "dog")], r"a.jsonl:1: expected one \[MASK\] in masked_sentence"),
        ([fact("[MASK] [MASK] cat", "cat", "dog")], r"a.jsonl:1: expected one \[MASK\]"),
        (FACTS[2:4], "a.jsonl: expected facts whose subject stands in the sentence, got none of 2"),
    ],
)
def test_facts_that_cannot_be_read(tmp_path: Path, lines: list, match: str):
    with pytest.raises(DataError, match=match) as error:
        read_relations(write(tmp_path, "a.jsonl", lines), "trex")
    assert "\n" not in str(error.value)


GOOD = '1\t"The <e1>cat</e1> is a <e2>dog</e2>."'


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["hello"], "a.txt:1: expected a number, a tab and a sentence, got 'hello'"),
        ([GOOD, "Cause-Effect(e1,e3)"], r"a.txt:2: unknown relation 'Cause-Effect\(e1,e3\)'.*did you mean"),
        ([GOOD], "a.txt:2: unknown relation ''"),
        ([GOOD, "Other", "what?"], "a.txt:3: expected a number, a tab and a sentence, got 'what"),
        (['1\t"a <e1>cat</e1>"', "Other"], r"a.txt:1: expected <e1>\.\.\.</e1> and <e2>"),
        (['1\t"a <e1>cat</e1> <e1>cat</e1>"', "Other"], "a.txt:1: expected <e1>"),
        (['1\t"a <e1>cat <e2>dog</e2></e1>"', "Other"], "a.txt:1: expected <e1>"),
        (['1\t"a <e1></e1> <e2>dog</e2>"', "Other"], "a.txt:1: expected <e1>"),
        (['1\t"a <e1>b</e1> <e2>c</e2> <e2>d</e2>"', "Other"], "a.txt:1: expected <e1>"),
    ],
)
def test_sentences_that_cannot_be_read(tmp_path: Path, lines: list, match: str):
    with pytest.raises(DataError, match=match) as error:
        read_relations(write(tmp_path, "a.txt", lines), "semeval")
    assert "\n" not in str(error.value)


def test_relations_that_were_not_learnt_are_refused(trex: Path):
    with pytest.raises(DataError, match=r"facts.jsonl:1: unknown relation 'P2': known are P1"):
        read_relations(trex, "trex", labels=("P1",))


def test_real_trex(shared_data: Path):
    folder = shared_data / "lama" / "trex_rc"
    told: list[str] = []
    train = read_relations(folder / "train.jsonl", "trex", report=told.append)
    assert (len(train), train.skipped, len(train.features.labels)) == (8796, 10, 28)
    assert len(told) == 1 and "10 of 8806 facts left out" in told[0]
    assert train[0]["text"].startswith(
        "@ Kenny Demens @ (born February 4, 1990) is an American football # linebacker #"
    )
    for name, rows in (("dev", 1100), ("test", 1101)):
        assert len(read_relations(folder / f"{name}.jsonl", "trex", train.features.labels)) == rows


def test_real_semeval(shared_data: Path):
    folder = shared_data / "semeval2010_task8"
    train, test = (read_relations(folder / name, "semeval") for name in ("TRAIN_FILE.TXT", "TEST_FILE_FULL.TXT"))
    assert (len(train), len(test)) == (8000, 2717)
    counts = np.bincount([test[n]["label"] for n in range(len(test))], minlength=19)
    assert counts[SEMEVAL.index("Other")] == 454  # table 1 of Hendrickx et al. (2010)
    assert counts[SEMEVAL.index("Cause-Effect(e1,e2)")] + counts[SEMEVAL.index("Cause-Effect(e2,e1)")] == 328
    assert train[1]["text"].startswith("The @ child @ was carefully wrapped and bound into the # cradle # by means")


def test_real_rows_know_where_the_marks_are(shared_data: Path, minilm):
    source = take(read_relations(shared_data / "lama" / "trex_rc" / "dev.jsonl", "trex"), 200)
    rows = encode_relations(source, minilm.tokenizer, 48)
    signs = minilm.tokenizer.convert_tokens_to_ids(["@", "#"])
    assert 0 < rows.truncated < 100
    for number in range(len(rows)):
        ids = rows.batch(np.array([number]), 48)["input_ids"][0]
        assert [ids[place] for place in rows.marks[number]] == signs
