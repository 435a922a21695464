"""What each head is asked, in Python and in files; what it says then, text by text, in any batch."""

import json
from pathlib import Path

import jax
import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.cli import main
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.serving.inputs import FORMS, form_of
from tests.refusal import refused

CONTEXT = "the man is not good . the woman is good and the dog is on the cat . " * 3
WINDOWS = {"doc_stride": 8, "max_question_length": 16}
HEADS = {
    "multilabel": aj.MultiLabel(labels=("a", "b", "c")),
    "token_classification": aj.TokenClassification(labels=("O", "B-X", "I-X")),
    "question_answering": aj.QuestionAnswering(n_best=4),
    "multiple_choice": aj.MultipleChoice(),
    "ranking": aj.Ranking(),
}
ASKED = {
    "multilabel": ["the cat", "a good dog is not a cat"],
    "token_classification": ["the cat is good.", ["a", "woman", "and", "a", "man"], "the dog " * 30],
    "question_answering": [("is the man good", CONTEXT), ("is the cat on", "the dog is on the cat .")],
    "multiple_choice": [("the cat is", ["good", "a dog"]), ("the man", ["is", "is not", "is not a woman"])],
    "ranking": [("the cat is", ["good", "a dog"]), ("the man", ["is", "is not", "is not a woman"])],
}
LINES = {
    "multilabel": [{"text": "the cat"}, {"text": "a good dog is not a cat"}],
    "token_classification": [
        {"text": "the cat is good."},
        {"words": ["a", "woman", "and", "a", "man"], "id": "second"},
        {"text": "the dog " * 30},
    ],
    "question_answering": [
        dict(zip(("question", "context"), pair, strict=True)) for pair in ASKED["question_answering"]
    ],
    "multiple_choice": [dict(zip(("text", "choices"), pair, strict=True)) for pair in ASKED["multiple_choice"]],
    "ranking": [dict(zip(("text", "choices"), pair, strict=True)) | {"id": 7} for pair in ASKED["ranking"]],
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


def tuned(backbone: aj.Backbone, head: str) -> tuple[aj.Model, dict]:
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), HEADS[head])
    params = model.init(jax.random.key(0), backbone.params)
    return model, params | {part: testing.perturb(params[part]) for part in ("adapters", "head")}


def options(head: str) -> dict[str, int]:
    return WINDOWS if head == "question_answering" else {}


def rounded(value: object) -> object:
    """Floats to five digits: another batch may add up in another order."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


@pytest.mark.parametrize("head", HEADS)
def test_each_text_gets_the_answer_that_it_gets_alone(head: str, backbone: aj.Backbone):
    predictor = aj.Predictor(*tuned(backbone, head), backbone, max_length=32, batch_size=2, **options(head))
    said = predictor(ASKED[head])
    assert len(said) == len(ASKED[head])
    for asked, answer in zip(ASKED[head], said, strict=True):
        assert rounded(predictor([asked])) == [rounded(answer)]
    assert predictor([]) == []


def test_tags_stand_where_the_words_do(backbone: aj.Backbone):
    said = aj.Predictor(*tuned(backbone, "token_classification"), backbone, max_length=32)(
        ASKED["token_classification"]
    )
    for text, answer in zip(ASKED["token_classification"], said, strict=True):
        words = [tag["word"] for tag in answer["tags"]]
        if isinstance(text, str):
            assert words == [text[tag["start"] : tag["end"]] for tag in answer["tags"]]
            assert all(text[span["start"] : span["end"]] == span["text"] for span in answer["spans"])
        else:
            assert words == text
    assert len(said[2]["tags"]) == 60  # more than a row holds


def test_answers_stand_in_their_context(backbone: aj.Backbone):
    model, params = tuned(backbone, "question_answering")
    said = aj.Predictor(model, params, backbone, max_length=32, **WINDOWS)(ASKED["question_answering"])
    for (_, context), answer in zip(ASKED["question_answering"], said, strict=True):
        assert answer["answer"] and context[answer["start"] : answer["end"]] == answer["answer"]
    silent = aj.Predictor(model, params, backbone, max_length=32, threshold=-1e9, **WINDOWS)
    assert [answer["answer"] for answer in silent(ASKED["question_answering"])] == ["", ""]


@pytest.mark.parametrize(
    ("head", "asked", "message"),
    [
        ("token_classification", [3], "text 0: expected a text or a list of words"),
        ("question_answering", ["alone"], "question 0: expected a question and its context"),
        ("question_answering", [("q", " ")], "question 0: expected a context, got an empty text"),
        ("multiple_choice", ["alone"], "text 0: expected a text and its choices"),
        ("ranking", [("a", ["one"])], 'text 0: expected "choices" to be a list of 2 to'),
    ],
)
def test_what_is_no_input_is_refused(head: str, asked: list, message: str, backbone: aj.Backbone):
    with pytest.raises(DataError, match=message):
        aj.Predictor(*tuned(backbone, head), backbone, max_length=32, **options(head))(asked)


def test_options_and_heads_that_are_none(backbone: aj.Backbone):
    with pytest.raises(ConfigError, match="unknown option 'stride': known are doc_stride"):
        aj.Predictor(*tuned(backbone, "question_answering"), backbone, stride=3)
    with pytest.raises(ConfigError, match=r"head relation: expected one .*got one that is scored in its training job"):
        form_of(aj.Relation(num_labels=2))
    with pytest.raises(ConfigError, match=r"head masked_lm: expected one .*--init-adapter=FOLDER"):
        form_of(aj.MaskedLM(mask_id=1, vocab_size=9))


@pytest.mark.parametrize("head", HEADS)
def test_a_file_says_it_too(head: str, backbone: aj.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, params = tuned(backbone, head)
    aj.save_adapter(tmp_path / "adapter", model, params, backbone, max_length=32, extra=options(head))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[head]))
    given = [f"--adapter={tmp_path / 'adapter'}", f"--backbone={backbone.name}", f"--output={tmp_path / 'out'}"]
    main(["predict", *given, f"--input={tmp_path / 'in.jsonl'}"])
    told = capsys.readouterr().err
    assert f"{len(LINES[head])} texts in " in told and " a second" in told
    wanted = aj.Predictor(model, params, backbone, max_length=32, **options(head))(ASKED[head])
    named = [{"id": line["id"]} if "id" in line else {} for line in LINES[head]]
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert rounded(found) == rounded([name | answer for name, answer in zip(named, wanted, strict=True)])


def test_plain_text_where_it_says_enough(backbone: aj.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = {"question_answering": "is the man good\tthe man is good", "token_classification": "the cat"}
    for head, line in asked.items():
        aj.save_adapter(tmp_path / head, *tuned(backbone, head), backbone, max_length=32, extra=options(head))
        (tmp_path / "in.txt").write_text(line + "\n")
        main(
            ["predict", f"--adapter={tmp_path / head}", f"--backbone={backbone.name}", f"--input={tmp_path / 'in.txt'}"]
        )
        assert ("answer" if head == "question_answering" else "tags") in json.loads(capsys.readouterr().out)


BAD = {
    ("question_answering", "in.txt", "no tab"): "expected a question, a tab and a context, got 'no tab'",
    ("multiple_choice", "in.txt", "a\tb"): "expected --format=jsonl for this head, got plain text",
    ("multiple_choice", "in.jsonl", '{"text": "a"}'): 'expected an object such as {"text": ..., "choices": ...}, got',
    ("multiple_choice", "in.jsonl", '{"text": "a", "choices": "b"}'): 'expected "choices" to be a list of texts',
    ("token_classification", "in.jsonl", '{"words": "a b"}'): 'expected "words" to be a list of texts',
    ("token_classification", "in.jsonl", "{"): "expected JSON such as",
    ("token_classification", "in.txt", "a\tb"): "expected a text, got",
    ("question_answering", "in.jsonl", '{"question": "q", "context": " "}'): "expected a context, got an empty text",
    ("question_answering", "in.txt", "q\t "): "expected a context, got an empty text",
    ("ranking", "in.jsonl", '{"text": "a", "choices": ["b"]}'): 'expected "choices" to be a list of 2 to',
}


@pytest.mark.parametrize("given", BAD)
def test_lines_that_are_no_input(given: tuple, backbone: aj.Backbone, tmp_path: Path, capsys):
    head, name, line = given
    aj.save_adapter(tmp_path / "adapter", *tuned(backbone, head), backbone, max_length=32)
    (tmp_path / name).write_text(line + "\n")
    said = refused(
        capsys,
        main,
        ["predict", f"--adapter={tmp_path / 'adapter'}", f"--backbone={backbone.name}", f"--input={tmp_path / name}"],
    )
    assert f"{name}:1: {BAD[given]}" in said


def test_lines_are_left_out_where_asked_to(backbone: aj.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    aj.save_adapter(tmp_path / "adapter", *tuned(backbone, "token_classification"), backbone, max_length=32)
    lines = ['{"text": "the cat", "words": null}', '{"text": 3}', '{"words": ["a", "\\ud800"], "id": "\\ud800"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    given = ["predict", f"--adapter={tmp_path / 'adapter'}", f"--backbone={backbone.name}"]
    main([*given, f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out'}", "--on-bad-row=skip"])
    first, second = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [tag["word"] for tag in first["tags"]] == ["the", "cat"]
    assert (second["id"], second["tags"][1]["word"]) == ("?", "?")
    told = capsys.readouterr().err
    assert "2 texts in " in told and f"1 row was skipped: {tmp_path / 'in.jsonl'}:2: expected" in told


def test_what_was_cut_is_named(backbone: aj.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = {"question_answering": f"{'the cat ' * 9}\tthe man is good", "multilabel": "the cat " * 40}
    wanted = {
        "question_answering": "cut: 1 questions that were longer than 16 tokens",
        "multilabel": "cut: 1 texts that were longer than 32 tokens",
    }
    for head, line in asked.items():
        aj.save_adapter(tmp_path / head, *tuned(backbone, head), backbone, max_length=32, extra=options(head))
        (tmp_path / "in.txt").write_text(line + "\n")
        main(
            ["predict", f"--adapter={tmp_path / head}", f"--backbone={backbone.name}", f"--input={tmp_path / 'in.txt'}"]
        )
        assert wanted[head] in capsys.readouterr().err


@pytest.mark.parametrize("extra", [{"columns": 3}, {"columns": ["foo"]}, {"doc_stride": "8"}, {"doc_stride": True}])
def test_manifests_of_strangers(extra: dict, backbone: aj.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    head = "question_answering" if "doc_stride" in extra else "multilabel"
    aj.save_adapter(tmp_path / "adapter", *tuned(backbone, head), backbone, max_length=32, extra=extra)
    (tmp_path / "in.txt").write_text("a\tb\n")
    given = ["predict", f"--adapter={tmp_path / 'adapter'}", f"--backbone={backbone.name}"]
    assert "manifest: expected" in refused(capsys, main, [*given, f"--input={tmp_path / 'in.txt'}"])


def test_every_form_belongs_to_a_head():
    assert set(FORMS) <= set(aj.HEADS)
