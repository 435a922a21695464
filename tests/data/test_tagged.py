"""Files of tagged words: what is read, what is refused with file and line, what is never lost."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_jax.data import bad as bad_rows
from adapters_jax.data.bad import BadRows
from adapters_jax.data.source import Source, take
from adapters_jax.data.tagged import Sentence, Tagged, are_spans, read_tagged
from adapters_jax.errors import AdaptersJaxError, ConfigError, DataError
from adapters_jax.metrics.spans import spans, to_bio

BIO = "EU B-ORG\nrejects O\nGerman B-MISC\ncall O\n\nPeter B-PER\nBlackburn I-PER\n"


def write(folder: Path, text: str | bytes, name: str = "a.conll") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read(folder: Path, text: str | bytes, name: str = "a.conll", **options) -> Tagged:
    return read_tagged(write(folder, text, name), BadRows(), **options)


def skipping(folder: Path, text: str | bytes, name: str = "a.conll", **options) -> tuple[list[str], BadRows]:
    """The first word of each sentence that is left, and what was skipped."""
    bad = BadRows("skip")
    found = read_tagged(write(folder, text, name), bad, **options)
    return [sentence.words[0] for sentence in found.sentences], bad


def test_words_and_tags(tmp_path: Path):
    found = read(tmp_path, BIO)
    assert isinstance(found, Source)
    assert found.sentences == (
        Sentence(("EU", "rejects", "German", "call"), ("B-ORG", "O", "B-MISC", "O")),
        Sentence(("Peter", "Blackburn"), ("B-PER", "I-PER")),
    )
    assert found.labels == ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert found.scheme == "bio" and are_spans(found.labels)
    assert found[1] == {
        "text": "Peter Blackburn",
        "words": ("Peter", "Blackburn"),
        "tags": ("B-PER", "I-PER"),
        "label": (5, 6),
        "id": "1",
    }
    assert found.summary() == {
        "file": str(tmp_path / "a.conll"),
        "scheme": "bio",
        "sentences": 2,
        "words": 6,
        "longest": 4,
        "spans": {"ORG": 1, "MISC": 1, "PER": 1},
    }
    assert len(take(found, 1)) == 1
    assert found.part([1], "one").sentences == found.sentences[1:]


@pytest.mark.parametrize(
    "text",
    [
        "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\n\n-DOCSTART- -X- O O\n\nis VBZ I-VP O\n",
        "EU\tNNP\tI-NP\tB-ORG\n\t\nis\tVBZ\tI-VP\tO",
        "\ufeffEU  NNP \t I-NP  B-ORG \r\n \r\n\r\n\nis VBZ I-VP O\r\n\r\n",
        "-DOCSTART- O\nEU x x B-ORG\n-DOCSTART-\nis x x O\n",
    ],
)
def test_columns_between_tabs_or_blanks(tmp_path: Path, text: str):
    found = read(tmp_path, text)
    assert found.sentences == (Sentence(("EU",), ("B-ORG",)), Sentence(("is",), ("O",)))


def test_other_columns(tmp_path: Path):
    text = "1 B-ORG EU NNP\n2 O is VBZ\n"
    assert read(tmp_path, text, word_column=3, tag_column=2).sentences == (Sentence(("EU", "is"), ("B-ORG", "O")),)
    found = read(tmp_path, text, word_column=-2)
    assert found.sentences == (Sentence(("EU", "is"), ("NNP", "VBZ")),)
    assert (found.scheme, found.labels) == ("none", ("NNP", "VBZ"))
    for options, match in (
        ({"word_column": 5}, "word_column: expected 1 to 4, the columns of .*a.conll, or -1 for the last, got 5"),
        ({"tag_column": 0}, "tag_column: expected 1 to 4, .*got 0"),
        ({"word_column": 4}, "tag_column: expected another than that of the words, got column 4 for both"),
    ):
        with pytest.raises(ConfigError, match=match):
            read(tmp_path, text, **options)


def test_words_may_look_like_anything_else(tmp_path: Path):
    """A hash is a word here, no comment; between tabs a word may have a blank."""
    found = read(tmp_path, "#\tO\nNew York\tB-LOC\na\u00a0b\u2028c\tO\n\nO\tO\n")
    assert [sentence.words for sentence in found.sentences] == [("#", "New York", "a\u00a0b\u2028c"), ("O",)]


def test_iob1_is_brought_to_bio(tmp_path: Path):
    """B parts two spans of a type that touch; a change of type parts them too."""
    text = "a I-PER\nb I-PER\nc B-PER\nd I-ORG\ne O\nf I-LOC\n"
    for scheme in ("auto", "iob1"):
        found = read(tmp_path, text, scheme=scheme)
        assert found.sentences[0].tags == ("B-PER", "I-PER", "B-PER", "B-ORG", "O", "B-LOC")
        assert found.scheme == "iob1"
    assert read(tmp_path, text, scheme="bio").sentences[0].tags[0] == "I-PER"
    assert read(tmp_path, text, scheme="none").labels == ("B-PER", "I-LOC", "I-ORG", "I-PER", "O")
    # One span that begins with B after another tag than its type's: not IOB1, and a stray I stays what it is.
    assert read(tmp_path, text + "g O\nh B-LOC\n").scheme == "bio"
    # Seen from the rows to train on, a file of I alone is one of spans all the same.
    assert read(tmp_path, "a O\n", labels=("O", "B-PER", "I-PER")).scheme == "bio"
    assert read(tmp_path, "a I-PER\n", labels=("O", "B-PER", "I-PER")).sentences[0].tags == ("B-PER",)
    assert read(tmp_path, "a I-x\nb y\n", labels=("I-x", "y")).scheme == "none"


CONLLU = """# text = isn't
1-2\tisn't\t_\t_\t_\t_
1\tis\tbe\tAUX\tVBZ\t_
2\tnot\tnot\tPART\tRB\t_
2.1\tvery\tvery\tADV\tRB\t_
# in between
3\tBoa Vista\tx\tPROPN\tNNP\t_

1\tyes\tyes\tINTJ\tUH\t_
"""


@pytest.mark.parametrize("more", ["", "\t0\tdep\t_\t_"])
def test_conllu(tmp_path: Path, more: str):
    text = "\n".join(line + more if "\t" in line else line for line in CONLLU.splitlines())
    found = read(tmp_path, text, "a.CONLLU")
    assert found.sentences == (
        Sentence(("is", "not", "Boa Vista"), ("AUX", "PART", "PROPN")),
        Sentence(("yes",), ("INTJ",)),
    )
    assert (found.scheme, found.labels) == ("none", ("AUX", "INTJ", "PART", "PROPN"))
    assert read(tmp_path, text, format="conllu", column="xpos").labels == ("NNP", "RB", "UH", "VBZ")
    assert found.summary()["tags"] == {"AUX": 1, "PART": 1, "PROPN": 1, "INTJ": 1}


GOOD = "first\tO\nRome\tB-LOC\n\n"
LAST = "\n\nlast\tO\n"
U = "\t_\tX\tX\t_\n"


@pytest.mark.parametrize(
    ("name", "text", "line", "match"),
    [
        ("a.conll", f"{GOOD}a\tO\nRome{LAST}", 5, "expected a tag for every word, after a tab, got none for 'Rome'"),
        (
            "a.conll",
            f"{GOOD}a\tO\nRome O{LAST}",
            5,
            "expected a tag for every word, after a tab, got none for 'Rome O'",
        ),
        ("a.conll", f"{GOOD}a\tO\nRome\t{LAST}", 5, "expected a tag without blanks for every word, got '' for 'Rome'"),
        ("a.conll", f"{GOOD}a\tO\nb\tO O{LAST}", 5, "expected a tag without blanks for every word, got 'O O' for 'b'"),
        ("a.conll", f"{GOOD}\tO\nb\tO{LAST}", 4, "expected a word for the tag 'O', got none"),
        ("a.conll", f"{GOOD}a\tO\nb\tx\tO{LAST}", 5, "expected 2 columns as on most lines, a tab between them, got 3"),
        ("a.conll", f"{GOOD}a\tX-PER{LAST}", 4, "expected O, B-TYPE or I-TYPE, got 'X-PER'"),
        ("a.conll", f"{GOOD}a\tB-{LAST}", 4, "expected O, B-TYPE or I-TYPE, got 'B-'"),
        ("a.conll", f"{GOOD}a\tPER{LAST}", 4, "expected O, B-TYPE or I-TYPE, got 'PER'"),
        ("a.conll", f"a\tx\tO\n\n{GOOD}{LAST}", 1, "expected 2 columns as on most lines, a tab between them, got 3"),
        ("a.conll", f"bad\n\n{GOOD}{LAST}", 1, "expected a tag for every word, after a tab, got none for 'bad'"),
        ("a.conllu", f"1\tfirst{U}\n1\ta\t_\n2\tb{U}\n1\tlast{U}", 3, "expected 6 tab-separated columns, got 3"),
        ("a.conllu", f"1\tfirst{U}\n1\ta{U}3\tb{U}\n1\tlast{U}", 4, "expected the word number 2, got '3'"),
        ("a.conllu", f"1\tfirst{U}\nx\ta{U}\n1\tlast{U}", 3, "expected the word number 1, got 'x'"),
        ("a.conllu", f"1\tfirst{U}\n1\t{U}\n1\tlast{U}", 3, "expected a word for the tag 'X', got none"),
        ("a.conllu", f"1\tfirst{U}\n1\ta\t_\t_\tX\t_\n\n1\tlast{U}", 3, "expected a tag in column 4, got '_' for 'a'"),
    ],
)
def test_bad_lines_have_a_place_and_cost_their_sentence_alone(
    tmp_path: Path, name: str, text: str, line: int, match: str
):
    with pytest.raises(DataError, match=f"{name}:{line}: .*{match}.*; mend or remove it") as error:
        read(tmp_path, text, name)
    assert "\n" not in str(error.value)
    left, bad = skipping(tmp_path, text, name)
    assert left == ["first", "last"] and bad.skipped == 1
    assert f"{name}:{line}: " in bad.messages[0] and match in bad.messages[0]


def test_a_sentence_with_several_bad_lines_is_one(tmp_path: Path):
    left, bad = skipping(tmp_path, f"{GOOD}a\nb\nc\tO{LAST}")
    assert (left, bad.skipped) == (["first", "last"], 1)


@pytest.mark.parametrize("end", [LAST, ""])
def test_a_line_that_cannot_be_read_costs_its_sentence(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch):
    """Also the last one of the file, after which no line comes."""
    kept = ["first", "last"] if end else ["first"]
    text = f"{GOOD}a\tO\n".encode() + b"caf\xe9\tO" + end.encode()
    with pytest.raises(DataError, match="a.conll:5: expected UTF-8, got the byte 0xe9"):
        read(tmp_path, text)
    left, bad = skipping(tmp_path, text)
    assert (left, bad.skipped) == (kept, 1)
    monkeypatch.setattr(bad_rows, "MOST_BYTES", 64)
    left, bad = skipping(tmp_path, f"{GOOD}{'x' * 200}\tO{end}")
    assert (left, bad.skipped) == (kept, 1)


def test_tags_that_were_not_trained_on(tmp_path: Path):
    labels = read(tmp_path, GOOD).labels
    dev = "first O\n\na O\nb B-PER\n\nlast I-LOC\n"
    with pytest.raises(DataError, match="a.conll:4: expected a tag of the rows to train on: unknown tag 'B-PER'"):
        read(tmp_path, dev, labels=labels)
    left, bad = skipping(tmp_path, dev, labels=labels)
    assert (left, bad.skipped) == (["first", "last"], 1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "expected a readable text file, got: No such file"),
        ("", "expected text, got an empty file"),
        ("\n\t\n \n", "expected sentences, got none that can be used"),
        ("-DOCSTART- O\n", "expected sentences, got none"),
    ],
)
def test_files_without_sentences(tmp_path: Path, text: str | None, match: str):
    with pytest.raises(DataError, match=match):
        read_tagged(tmp_path / "none" if text is None else write(tmp_path, text), BadRows())


word = st.text(
    st.characters(exclude_characters="\n\r\t\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda text: text.strip(" ") == text and not text.startswith("-DOCSTART-"))
plain = st.sampled_from(("NOUN", "VERB", "-LRB-", "``", "."))
bio = st.sampled_from(("O", "B-PER", "I-PER", "B-my-kind", "I-my-kind"))


def sentences(tag):
    return st.lists(st.lists(st.tuples(word, tag), min_size=1, max_size=6), min_size=1, max_size=6)


def read_back(text: str, policy="error", **options) -> Tagged:
    with tempfile.TemporaryDirectory() as folder:
        return read_tagged(write(Path(folder), text), BadRows(policy), **options)


@given(sentences(plain) | sentences(bio), st.integers(1, 3), st.sampled_from(("\n", "\r\n")))
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read(given_rows, blanks: int, end: str):
    text = "".join("".join(f"{w}\t{t}{end}" for w, t in row) + end * blanks for row in given_rows)
    found = read_back(text)
    assert [sentence.words for sentence in found.sentences] == [tuple(w for w, _ in row) for row in given_rows]
    for sentence, row in zip(found.sentences, given_rows, strict=True):
        tags = [tag for _, tag in row]
        assert list(sentence.tags) == (to_bio(tags) if found.scheme == "iob1" else tags)
        if found.scheme != "none":
            assert spans(sentence.tags) == spans(tags)
        assert set(sentence.tags) <= set(found.labels)
    assert read_back(text, labels=found.labels).sentences == found.sentences


@given(sentences(bio), st.data())
@settings(max_examples=200, deadline=None)
def test_skipping_loses_bad_sentences_alone(given_rows, data):
    broken = data.draw(st.sets(st.integers(0, len(given_rows) - 1), max_size=len(given_rows) - 1))
    lines = []
    for number, row in enumerate(given_rows):
        here = [f"{w}\t{t}" for w, t in row]
        if number in broken:
            # Good lines are in the majority, or the columns of the file would be the bad ones'.
            here.insert(data.draw(st.integers(0, len(here))), data.draw(st.sampled_from(("w\tX-PER", "alone", "\tO"))))
        lines += [*here, ""]
    text = "\n".join([*lines, *["x\tB-PER"] * 20, ""])
    with tempfile.TemporaryDirectory() as folder:
        bad = BadRows("skip")
        found = read_tagged(write(Path(folder), text), bad, scheme="bio")
    good = [tuple(w for w, _ in row) for number, row in enumerate(given_rows) if number not in broken]
    assert [sentence.words for sentence in found.sentences][:-1] == good
    assert bad.skipped == len(broken)


@given(st.text(max_size=200) | st.text("ab-OBI1._\t \n\r#", max_size=80), st.sampled_from(("conll", "conllu")))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text: str, form):
    for policy in ("error", "skip"):
        try:
            found = read_back(text.encode(errors="replace").decode(), policy, format=form)
        except AdaptersJaxError as error:
            assert "\n" not in str(error)
        else:
            assert all(len(s.words) == len(s.tags) > 0 for s in found.sentences)


def test_real_names(shared_data: Path):
    folder = shared_data / "wnut17"
    bad = BadRows()
    train = read_tagged(folder / "train.conll", bad)
    others = [read_tagged(folder / f"{name}.conll", bad, labels=train.labels) for name in ("dev", "test")]
    assert [len(found) for found in (train, *others)] == [3394, 1009, 1287]
    assert [found.summary()["words"] for found in (train, *others)] == [62_730, 15_733, 23_394]
    assert {found.scheme for found in (train, *others)} == {"bio"}
    kinds = ["corporation", "creative-work", "group", "location", "person", "product"]
    assert train.labels == ("O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI"))
    assert others[0].summary()["spans"] == {
        "person": 470,
        "product": 114,
        "creative-work": 105,
        "location": 74,
        "group": 39,
        "corporation": 34,
    }


def test_real_parts_of_speech(shared_data: Path):
    folder = shared_data / "ud_ewt"
    names = ("train_pos6", "en_ewt-ud-dev", "en_ewt-ud-test")
    train, *others = [read_tagged(folder / f"{name}.conllu", BadRows()) for name in names]
    assert [len(found) for found in (train, *others)] == [12_544, 2001, 2077]
    assert [found.summary()["words"] for found in (train, *others)] == [204_577, 25_147, 25_094]
    assert {(len(found.labels), found.scheme) for found in (train, *others)} == {(17, "none")}
    dev = read_tagged(folder / f"{names[1]}.conllu", BadRows(), column="xpos")
    assert dev.summary()["tags"]["NN"] == 3353 and set(dev.labels) > {"-LRB-", "``", "PRP$"}
