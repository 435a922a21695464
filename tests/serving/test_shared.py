"""Several tasks over one backbone give each task's own answers, and the shared layers run once."""

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from benchmarks.flops import flops

TINY = aj.BertConfig.tiny(num_hidden_layers=3)
HEADS = {"nli": aj.Classification(labels=("yes", "no", "maybe")), "score": aj.Regression()}
TEXTS = ["the cat is good", "a dog", "who is not in the man and the woman"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"), TINY)


def task(backbone: aj.Backbone, method: aj.Method, head: object, seed: int):
    model = aj.Model(TINY, method, head)
    params = model.init(jax.random.key(seed), backbone.params)
    return model, params | {part: testing.perturb(params[part], seed, 0.3) for part in ("adapters", "head")}


def tasks(backbone: aj.Backbone, drop: int):
    methods = aj.Pfeiffer(bottleneck=4), aj.LoRA(rank=2)
    return {
        name: task(backbone, aj.AdapterDrop(method, drop=drop), head, seed)
        for seed, (method, (name, head)) in enumerate(zip(methods, HEADS.items(), strict=True))
    }


@pytest.mark.parametrize("drop", [0, 2, 3])
def test_each_task_answers_as_alone(backbone: aj.Backbone, drop: int):
    own = tasks(backbone, drop)
    model, params = aj.together(own)
    assert model.shared == drop
    found = aj.Predictor(model, params, backbone)(TEXTS)
    for name, (alone, leaves) in own.items():
        for mine, row in zip(aj.Predictor(alone, leaves, backbone)(TEXTS), found, strict=True):
            if name == "nli":
                assert row[name]["label"] == mine["label"]
                np.testing.assert_allclose(list(row[name]["scores"].values()), list(mine["scores"].values()), rtol=1e-4)
            else:
                np.testing.assert_allclose(row[name]["score"], mine["score"], rtol=1e-4, atol=1e-5)


def test_the_lowest_adapter_says_how_much_is_shared(backbone: aj.Backbone):
    own = tasks(backbone, 2) | {"third": task(backbone, aj.IA3(layers=(1, 2)), HEADS["nli"], 5)}
    model, params = aj.together(own)
    assert model.shared == 1
    for mine, row in zip(
        aj.Predictor(*own["score"], backbone)(TEXTS), aj.Predictor(model, params, backbone)(TEXTS), strict=True
    ):
        np.testing.assert_allclose(row["score"]["score"], mine["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_third_of_the_flops_is_saved():
    """BERT-base, 8 tasks, 5 of 12 layers shared: (5 + 8 x 7) / (8 x 12) of the layers, 0.635."""
    base = aj.BertConfig.base()
    model = aj.Model(base, aj.AdapterDrop(aj.Pfeiffer(), drop=5), HEADS["nli"], scan_layers=False)
    params = model.abstract(weights.abstract(base))
    batch = {name: jax.ShapeDtypeStruct((2, 32), jax.numpy.int32) for name in ("input_ids", "token_type_ids", "mask")}
    eight, several = aj.together({f"task {n}": (model, params) for n in range(8)})
    alone, _ = flops(model.answers, params, batch)
    found, _ = flops(eight.answers, several, batch)
    assert found <= 0.66 * 8 * alone


def other_backbone(backbone: aj.Backbone):
    model, params = task(backbone, aj.LoRA(rank=2), HEADS["nli"], 0)
    return model, params | {"backbone": testing.perturb(params["backbone"])}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda b: {}, "at least one task"),
        (lambda b: {"a": task(b, aj.Houlsby(bottleneck=4), HEADS["nli"], 0)}, "houlsby changes leaves of the backbone"),
        (lambda b: {"a": task(b, aj.LoRA(), aj.Relation(labels=("x", "y")), 0)}, "texts alone, a has relation"),
        (lambda b: {"a": task(b, aj.Prompt(length=2), HEADS["nli"], 0)}, "live in layers, a is prompt"),
        (lambda b: {"a": task(b, aj.LoRA(), HEADS["nli"], 0), "b": other_backbone(b)}, "a and b differ in embeddings"),
    ],
)
def test_what_cannot_share(backbone: aj.Backbone, make, match):
    with pytest.raises(ConfigError, match=match):
        aj.together(make(backbone))
