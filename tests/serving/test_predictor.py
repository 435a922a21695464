"""Predictions: order, lengths, shapes, memory."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.training.step import eval_step

TEXTS = [f"the {word} is {'not ' * n}good" for n, word in enumerate(["cat", "dog", "man", "woman", "cat"] * 3)]
LABELS = ("no", "yes", "maybe")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def tuned(backbone: aj.Backbone) -> tuple[aj.Model, dict]:
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(labels=LABELS))
    return model, testing.perturb(model.init(jax.random.key(0), backbone.params))


def test_each_text_gets_its_own_answer_in_order(tuned, backbone):
    predictor = aj.Predictor(*tuned, backbone, max_length=64, batch_size=4)
    together = predictor(TEXTS)
    assert len(together) == len(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        (alone,) = predictor([text])
        assert alone["label"] == answer["label"] in LABELS
        np.testing.assert_allclose(list(alone["scores"].values()), list(answer["scores"].values()), atol=1e-6)
        assert sum(answer["scores"].values()) == pytest.approx(1)


def test_pairs_and_texts_differ(tuned, backbone):
    predictor = aj.Predictor(*tuned, backbone, max_length=32)
    assert predictor([("the cat", "a dog")]) != predictor(["the cat a dog"])


def test_few_shapes_are_compiled_whatever_the_number_of_texts(tuned, backbone):
    predictor = aj.Predictor(*tuned, backbone, max_length=32, batch_size=4)
    predictor(TEXTS)
    warm = eval_step(predictor.model).compilations
    predictor(TEXTS * 3)
    predictor(TEXTS[:1])
    assert eval_step(predictor.model).compilations == warm


def test_long_texts_are_cut_and_counted(tuned, backbone):
    predictor = aj.Predictor(*tuned, backbone, max_length=8)
    predictor(["cat", "the cat is " * 20, "a dog " * 30])
    assert predictor.truncated == 2
    predictor(["the cat is " * 20])
    assert predictor.truncated == 3


def test_a_stream_is_read_as_it_is_needed(tuned, backbone):
    taken = []

    def texts() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            yield TEXTS[number % len(TEXTS)]

    predictor = aj.Predictor(*tuned, backbone, max_length=32, batch_size=2)
    stream = predictor.stream(texts(), chunk=10)
    first = next(stream)
    assert len(taken) == 10
    assert len([first, *stream]) == 100
    assert first["label"] == predictor(TEXTS[:1])[0]["label"]


def test_no_texts_give_no_answers(tuned, backbone):
    assert aj.Predictor(*tuned, backbone, max_length=32)([]) == []


def test_a_regression_gives_scores(backbone):
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Regression())
    params = model.init(jax.random.key(0), backbone.params)
    (answer,) = aj.Predictor(model, params, backbone, max_length=32)(["the cat"])
    assert list(answer) == ["score"]


@pytest.mark.parametrize("texts", ["the cat", ["the cat", ("a", "b")], [("a", "b", "c")], [3], [("a", 3)]], ids=str)
def test_what_is_no_list_of_texts_is_refused(tuned, backbone, texts):
    with pytest.raises(DataError):
        aj.Predictor(*tuned, backbone, max_length=32)(texts)


@pytest.mark.parametrize("bad", [{"max_length": 65}, {"max_length": 2}, {"batch_size": 0}], ids=str)
def test_sizes_out_of_range_are_refused(tuned, backbone, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        aj.Predictor(*tuned, backbone, **({"max_length": 32} | bad))


def test_the_length_fits_the_backbone_by_default(tuned, backbone):
    assert aj.Predictor(*tuned, backbone).max_length == 64
