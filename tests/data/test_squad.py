"""The reader of SQuAD's JSON: what it keeps, what it refuses and names."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_jax.data import squad as reader
from adapters_jax.data.bad import BadRows
from adapters_jax.data.source import Source, take
from adapters_jax.data.squad import MOST_CHARACTERS, Question, read_squad
from adapters_jax.errors import DataError

ROME = "Rome is old. Rome is big."


def asked(name: Any = "1", question: Any = "What is old?", answers: Any = (("Rome", 0),), **more: Any) -> dict:
    listed = (
        [{"text": text, "answer_start": start} for text, start in answers] if isinstance(answers, tuple) else answers
    )
    return {"id": name, "question": question, "answers": listed} | more


def squad(*questions: Any, context: Any = ROME) -> dict:
    return {"version": "1.1", "data": [{"title": "Rome", "paragraphs": [{"context": context, "qas": [*questions]}]}]}


def write(folder: Path, contents: Any, indent: int | None = None) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(contents, indent=indent), encoding="utf-8")
    return path


def test_questions_of_both_versions(tmp_path: Path):
    path = write(
        tmp_path,
        squad(
            asked("1", answers=(("Rome", 0), ("Rome is big", 13))),
            asked("2", "What is new?", [], is_impossible=True, plausible_answers=[{"text": "x", "answer_start": 99}]),
            asked("3", is_impossible=False),
        ),
    )
    found = read_squad(path)
    assert isinstance(found, Source) and found.name == "a.json"
    assert found.questions == (
        Question("1", "What is old?", ROME, (("Rome", 0), ("Rome is big", 13))),
        Question("2", "What is new?", ROME),
        Question("3", "What is old?", ROME, (("Rome", 0),)),
    )
    assert found[1] == {"text": "What is new?", "text_pair": ROME, "id": "2", "asked": found.questions[1]}
    assert len(take(found, 2)) == 2


BAD = {
    "an answer elsewhere": (asked("x", answers=(("Rome", 1),)), "expected the answer 'Rome' at character 1"),
    "an answer past the end": (asked("x", answers=(("Rome", 10**6),)), "at character 1000000 of its context, got ''"),
    "an answer before the start": (
        asked("x", answers=(("big.", -4),)),
        "answer_start to be a number of characters, got -4",
    ),
    "a second answer elsewhere": (asked("x", answers=(("Rome", 0), ("Rome", 5))), "'Rome' at character 5"),
    "an empty answer": (asked("x", answers=(("", 0),)), "expected an answer's text to be a text, got ''"),
    "a start that is a text": (
        asked("x", answers=(("Rome", "0"),)),
        "answer_start to be a number of characters, got '0'",
    ),
    "a start that is true": (asked("x", answers=(("R", True),)), "answer_start to be a number of characters, got True"),
    "an answer without a start": (asked("x", answers=[{"text": "Rome"}]), "a number of characters, got None"),
    "an answer that is a text": (asked("x", answers=["Rome"]), "an answer with text and answer_start, got 'Rome'"),
    "no answers": (asked("x", answers=[]), "expected at least one answer, or is_impossible to be true"),
    "answers left out": ({"id": "x", "question": "why?"}, "expected a list of answers, got none"),
    "answers of another type": (asked("x", answers={"text": "Rome"}), "expected a list of answers, got {"),
    "answers to the impossible": (
        asked("x", is_impossible=True),
        "expected no answers where is_impossible is true, got 1",
    ),
    "impossible in words": (
        asked("x", answers=[], is_impossible="yes"),
        "is_impossible to be true or false, got 'yes'",
    ),
    "an id used before": (asked("1"), "question '1' (data[0].paragraphs[0].qas[1]): expected an id of its own"),
    "an id that is a number": (asked(7), "data[0].paragraphs[0].qas[1]: expected id to be a text, got 7"),
    "an empty id": (asked(""), "expected id to be a text, got ''"),
    "an empty question": (asked("x", " \n"), "expected question to be a text, got ' \\n'"),
    "no question": ({"id": "x", "answers": []}, "expected question to be a text, got none"),
    "a question that is a list": (["x"], "expected an object with a question, got a list of 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_question_that_cannot_be_used_is_named_or_skipped(what: str, tmp_path: Path):
    entry, message = BAD[what]
    path = write(tmp_path, squad(asked("1"), entry, asked("2")))
    with pytest.raises(DataError) as refused:
        read_squad(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:") and "data[0].paragraphs[0].qas[1]" in str(refused.value)
    if isinstance(entry, dict) and entry["id"] == "x":
        assert f"{path}:1: question 'x' (" in str(refused.value)
    bad = BadRows("skip")
    assert [question.id for question in read_squad(path, bad).questions] == ["1", "2"]
    assert bad.skipped == 1 and message in bad.messages[0]


def test_the_line_is_that_of_the_id(tmp_path: Path):
    path = write(tmp_path, squad(asked("1"), asked("schön", answers=[])), indent=1)
    line = 1 + next(n for n, text in enumerate(path.read_text().splitlines()) if '"sch' in text)
    with pytest.raises(DataError, match=rf"a\.json:{line}: question 'schön'"):
        read_squad(path)


def test_the_line_is_that_of_the_very_question(tmp_path: Path):
    """Its id may stand elsewhere: a version, a text, the id of an article, of an answer, of a good question."""
    good, wrong = asked("1.1"), asked("1.1", answers=[{"id": "1.1", "text": "Rome", "answer_start": 1}])
    other = squad(asked("wr\u00f6ng"), asked("wr\u00f6ng"), asked("kept"), context='Rome "id": "1.1"')["data"][0]
    other = {"id": "wr\u00f6ng", "paragraphs": [{"context": ROME, "qas": []}, *other["paragraphs"]]}
    contents = squad(good, wrong)
    contents["data"].append(other)
    path = write(tmp_path, contents, indent=1)
    text = path.read_text()
    for spelling in ("wr\u00f6ng", "\\u0077r\u00f6ng"):  # the article's and that of the first question; then ASCII
        text = text.replace("wr\\u00f6ng", spelling, 1)
    path.write_text(text, encoding="utf-8")
    ids = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith(" " * 7 + '"id"')]  # of questions alone
    bad = BadRows("skip")
    assert len(read_squad(path, bad)) == 3 and len(ids) == 5
    assert [message.split(":")[1] for message in bad.messages] == [str(ids[1]), str(ids[3])]
    with pytest.raises(DataError, match=rf"a\.json:{ids[1]}: question '1.1'"):
        read_squad(path)


def test_the_text_is_searched_for_the_messages_alone_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each search reads the file from its start: one for every bad question takes minutes for some thousands."""
    calls, real = [], reader._line
    monkeypatch.setattr(reader, "_line", lambda *given: calls.append(1) or real(*given))
    bad = BadRows("skip")
    path = write(tmp_path, squad(asked("1"), *[asked(f"x{n}", answers=[]) for n in range(50)]), indent=1)
    assert len(read_squad(path, bad)) == 1 and bad.skipped == 50
    assert len(calls) == len(bad.messages) < 10


def test_a_context_is_bounded(tmp_path: Path):
    path = write(tmp_path, squad(asked("1"), context=ROME + "a" * MOST_CHARACTERS))
    with pytest.raises(
        DataError, match=r"question '1' .*expected a context of at most 4,194,304 characters, got 4,194,3"
    ):
        read_squad(path)


def test_every_question_of_a_context_that_is_none_counts(tmp_path: Path):
    contents = squad(asked("1"))
    contents["data"] += squad(asked("2"), asked("3"), context="  ")["data"] + squad(asked("4"), context=None)["data"]
    bad = BadRows("skip")
    assert len(read_squad(write(tmp_path, contents), bad)) == 1
    assert bad.skipped == 3 and "question '2' (data[1].paragraphs[0].qas[0]): expected context" in bad.messages[0]


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ("Rome", "data[0]: expected an object with a list 'paragraphs', got 'Rome'"),
        ({"paragraphs": {}}, "data[0]: expected an object with a list 'paragraphs', got an object with 'paragraphs'"),
        ({"paragraphs": [1]}, "data[0].paragraphs[0]: expected an object with a list 'qas', got 1"),
        ({"paragraphs": [{"context": "x"}]}, "data[0].paragraphs[0]: expected an object with a list 'qas'"),
    ],
)
def test_parts_that_are_of_another_form(article: Any, message: str, tmp_path: Path):
    path = write(tmp_path, {"data": [article, *squad(asked())["data"]]})
    with pytest.raises(DataError) as refused:
        read_squad(path)
    assert message in str(refused.value)
    bad = BadRows("skip")
    assert len(read_squad(path, bad)) == 1 and bad.skipped == 1


WHOLE = json.dumps(squad(asked()), indent=1).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON, got an empty file"),
        (b" \n", "expected JSON, got an empty file"),
        (WHOLE[:-4], f"a.json:{WHOLE[:-4].count(b'%c' % 10) + 1}: expected JSON, the file ends at column"),
        (WHOLE.replace(b'"qas":', b'"qas"'), "expected JSON, got '"),
        (b"id,question\n1,what?\n", "a.json:1: expected JSON, got 'id,question"),
        (WHOLE.replace(b"Rome is old", b"R\xf6me"), "a.json:8: expected UTF-8, got the byte 0xf6 at byte"),
        (json.dumps(squad(asked())).encode("utf-16"), "a.json:1: expected UTF-8, got the byte 0xff at byte 1"),
        (b"[]", 'expected an object with a list "data", as of SQuAD, got a list of 0'),
        (b'{"data": {}}', "expected an object with a list \"data\", as of SQuAD, got an object with 'data'"),
        (b'{"questions": []}', "got an object with 'questions'"),
        (b'{"data": []}', "expected at least one question, got none that can be used; no row was skipped"),
        (b"[" * 100_000, "a value that is too large"),
        (b'{"data": ' + b"9" * 10_000 + b"}", "a value that is too large"),
    ],
)
def test_files_that_are_none_of_squad(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    for policy in ("error", "skip"):
        with pytest.raises(DataError) as refused:
            read_squad(tmp_path / "a.json", BadRows(policy))
        assert message in str(refused.value) and str(tmp_path) in str(refused.value)
        assert len(str(refused.value)) < 500


def test_files_that_are_not_there_or_hold_nothing_of_use(tmp_path: Path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="expected a JSON file, got: "):
            read_squad(path)
    with pytest.raises(DataError, match="got none that can be used; 1 row was skipped"):
        read_squad(write(tmp_path, squad(asked(answers=[]))), BadRows("skip"))


def test_a_byte_order_mark_and_half_a_pair(tmp_path: Path):
    context = "\ud800 is half a pair"
    (tmp_path / "a.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(squad(asked(answers=(("is", 2),)), context=context)).encode()
    )
    assert read_squad(tmp_path / "a.json").questions[0].context == context


TEXT = st.text(min_size=1, max_size=20).filter(str.strip)


@st.composite
def any_question(draw: st.DrawFn) -> tuple:
    """The fields of a `Question`: to make one is to check its types, for which beartype draws random numbers."""
    context = draw(TEXT)
    starts = draw(st.lists(st.integers(0, len(context) - 1), max_size=2))
    ends = [draw(st.integers(start + 1, len(context))) for start in starts]
    answers = [(context[start:end], start) for start, end in zip(starts, ends, strict=True)]
    return draw(TEXT), draw(TEXT), context, tuple(pair for pair in answers if pair[0].strip())


@given(drawn=st.lists(any_question(), min_size=1, max_size=4, unique_by=lambda fields: fields[0]))
def test_what_is_written_is_read(drawn: list[tuple], tmp_path_factory: pytest.TempPathFactory):
    questions = [Question(*fields) for fields in drawn]
    data = [
        squad(asked(q.id, q.question, q.answers, is_impossible=not q.answers), context=q.context)["data"][0]
        for q in questions
    ]
    for impossible_left_out in (False, True):
        if impossible_left_out and all(q.answers for q in questions):
            for article in data:
                del article["paragraphs"][0]["qas"][0]["is_impossible"]
        path = write(tmp_path_factory.mktemp("squad"), {"data": data})
        assert read_squad(path).questions == tuple(questions)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.sampled_from(["", "Rome", ROME, "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "paragraphs", "context", "qas", "id", "question", "answers", "text", "is_impossible"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(value=VALUES, place=st.integers(0, 5))
def test_whatever_stands_in_the_file_is_read_skipped_or_refused(
    value: Any, place: int, tmp_path_factory: pytest.TempPathFactory
):
    """A drawn value in place of any part of a file: no other exception, and the other questions are read."""
    question = asked("x")
    paragraph = {"context": ROME, "qas": [question]}
    contents: Any = {"data": [{"paragraphs": [paragraph]}, *squad(asked("kept"))["data"]]}
    match place:
        case 0:
            contents = value
        case 1:
            contents["data"][0] = value
        case 2:
            contents["data"][0]["paragraphs"][0] = value
        case 3:
            paragraph["qas"] = value
        case 4:
            question["answers"] = value
        case _:
            question["id"] = value
    path, bad = write(tmp_path_factory.mktemp("squad"), contents), BadRows("skip")
    try:
        found = read_squad(path, bad)
    except DataError as error:
        assert str(path) in str(error) and place == 0
        return
    assert place == 0 or found.questions[-1].id == "kept"
    for read in found.questions:
        assert all(read.context[start:].startswith(text) for text, start in read.answers)
    if bad.skipped:
        with pytest.raises(DataError):
            read_squad(path)


def test_real_files(shared_data: Path):
    dev = read_squad(shared_data / "squad" / "dev-v1.1.json")
    train = read_squad(shared_data / "squad" / "train-v1.1-100articles.json")
    assert (len(dev), len(train)) == (10570, 18609)
    assert dev.questions[0].answers[0] == ("October 1973", 29)
