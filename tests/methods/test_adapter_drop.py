"""AdapterDrop: the same function as the method in the upper layers alone, for a fixed and for a drawn number."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.errors import ConfigError
from adapters_jax.methods.adapter_drop import left_out
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import make_optimizer
from tests.methods.tiny import BATCH, THREE, TINY, drawn_model, run

LAYERS = TINY.num_hidden_layers
METHODS = {
    "pfeiffer": aj.Pfeiffer(bottleneck=4),
    "houlsby": aj.Houlsby(bottleneck=4, layer_norms=False),
    "lora": aj.LoRA(rank=2),
    "prefix": aj.Prefix(length=2, bottleneck=4),
    "compose": aj.compose(aj.LoRA(rank=2), aj.Parallel(bottleneck=4)),
    "some layers": aj.IA3(layers=(0, 2)),
    "unipelt": aj.UniPELT(length=2, prefix_bottleneck=4, reduction_factor=4.0, rank=2),
    "fusion": aj.Fusion((aj.Pfeiffer(bottleneck=4), aj.Pfeiffer(bottleneck=2)), ("a", "b")),
}
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, trained, frozen, key):
    """(loss, gradients of the trained leaves) of a step."""

    def loss(trained):
        total, weight = model.loss(trees.join(trained, frozen), BATCH, key)
        return total / weight

    return jax.value_and_grad(loss)(trained)


def parts(model, params):
    return trees.split(params, model.labels(params))


@EVERY
@pytest.mark.parametrize("drop", [1, LAYERS])
def test_the_upper_layers_alone(method: aj.Method, drop: int):
    model, params = drawn_model(method)
    dropped, adapters = left_out(method, params["adapters"], drop, TINY)
    found = run(dataclasses.replace(model, method=dropped), params | {"adapters": adapters})
    if drop == LAYERS:
        plain = aj.Model(TINY, aj.HeadOnly(), THREE)
        np.testing.assert_array_equal(found.logits, run(plain, params | {"adapters": {}}).logits)
        return
    # A prefix network's width follows the number of layers, so that it cannot be cut.
    if "layers" in {field.name for field in dataclasses.fields(method)} and not isinstance(method, aj.Prefix):
        upper = tuple(layer for layer in method.layers or range(LAYERS) if layer >= drop)
        alone = dataclasses.replace(method, layers=upper)
        own = {path: leaf for path, leaf in trees.to_layers(params["adapters"]).items() if not below(path, drop)}
        like = aj.Model(TINY, alone, THREE).abstract(params["backbone"])["adapters"]
        expected = run(aj.Model(TINY, alone, THREE), params | {"adapters": trees.from_layers(own, like)})
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    if drop:
        assert float(abs(found.logits - run(model, params).logits).max()) > 1e-4


def depth_of(method: aj.AdapterDrop, key: jax.Array) -> int:
    """What a step of this key draws."""
    return int(method.depth(trees.site_keys(key, ("depth",))["depth"], TINY))


def below(path: str, drop: int) -> bool:
    parts = path.split("/")
    return parts[0] == "encoder" and int(parts[1]) < drop


@pytest.mark.parametrize(
    "name", ["pfeiffer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("prefix", "compose"))]
)
def test_a_drawn_depth_is_the_same_step_as_a_fixed_one(name: str):
    method = METHODS[name]
    model, params = drawn_model(method)
    robust = dataclasses.replace(model, method=aj.AdapterDrop(method, robust=True))
    np.testing.assert_array_equal(run(robust, params).logits, run(model, params).logits)
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        depth = depth_of(robust.method, key)
        if depth in seen:
            continue
        seen.add(depth)
        loss, found = gradients(robust, *parts(robust, params), key)
        fixed, adapters = left_out(method, params["adapters"], depth, TINY)
        alone = dataclasses.replace(model, method=fixed)
        expected_loss, expected = gradients(alone, *parts(alone, params | {"adapters": adapters}), key)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        expected = trees.to_layers(expected)
        for path, leaf in trees.to_layers(found).items():
            if path in expected:
                np.testing.assert_allclose(leaf, expected[path], rtol=1e-3, atol=1e-6, err_msg=path)
            else:
                np.testing.assert_array_equal(leaf, 0.0, err_msg=path)
    assert seen == set(range(LAYERS))


def test_depths_are_drawn_evenly_and_by_the_key_alone():
    method = aj.AdapterDrop(aj.Pfeiffer(), robust=True)
    keys = jax.random.split(jax.random.key(0), 6000)
    drawn = np.asarray(jax.vmap(lambda key: method.depth(key, aj.BertConfig.base()))(keys))
    counts = np.bincount(drawn, minlength=12)
    assert len(counts) == 12 and abs(counts - 500).max() < 100
    np.testing.assert_array_equal(drawn, jax.vmap(lambda key: method.depth(key, aj.BertConfig.base()))(keys))


def test_hidden_states_of_a_drawn_depth_are_those_of_all_layers():
    model, params = drawn_model(aj.AdapterDrop(aj.Pfeiffer(bottleneck=4), robust=True))
    key = next(key for key in map(jax.random.key, range(20)) if depth_of(model.method, key) == 2)
    apply = jax.jit(model.apply, static_argnames="hidden_states")
    found = apply(params, BATCH, key, hidden_states=True)
    assert len(found.hidden_states) == LAYERS + 1
    np.testing.assert_allclose(found.hidden, apply(params, BATCH, key).hidden, rtol=1e-5, atol=1e-6)
    assert float(abs(found.hidden_states[1] - found.hidden_states[0]).max()) > 1e-3


def test_no_leaf_below_is_made_and_the_artefact_comes_back(tmp_path):
    backbone = testing.tiny_backbone(tmp_path / "backbone", TINY)
    model = aj.Model(TINY, aj.AdapterDrop(aj.LoRA(rank=2), drop=2), THREE)
    params = model.init(jax.random.key(0), backbone.params)
    assert {path.split("/")[1] for path in trees.to_layers(params["adapters"])} == {"2"}
    aj.save_adapter(tmp_path / "adapter", model, params, backbone)
    again, loaded = aj.load_adapter(tmp_path / "adapter", backbone)
    assert again == model
    testing.assert_same(loaded, params)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.AdapterDrop(aj.Houlsby(), drop=1), "houlsby changes .*embeddings/norm/scale.*layer-norms=false"),
        (lambda: aj.AdapterDrop(aj.BitFit(), drop=1), "bitfit changes leaves of the backbone"),
        (lambda: aj.AdapterDrop(aj.Prompt(length=2), drop=1), "lives in layers, prompt stands at embed"),
        (lambda: aj.AdapterDrop(aj.HeadOnly(), drop=1), "lives in layers, head has nothing"),
        (lambda: aj.AdapterDrop(aj.LoRA(), drop=4), "at most the backbone's 3 layers, got 4"),
        (lambda: aj.AdapterDrop(aj.LoRA(), drop=-1), "drop: expected a whole number"),
        (lambda: aj.AdapterDrop(aj.AdapterDrop(aj.LoRA())), "method.of"),
        (lambda: aj.compose(aj.AdapterDrop(aj.LoRA(), robust=True), aj.IA3()), "expected it around the composition"),
        (lambda: left_out(aj.AdapterDrop(aj.LoRA(), drop=2), {}, 1, TINY)[0], "expected at least 2"),
    ],
)
def test_what_is_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        aj.Model(TINY, make(), THREE)


def test_adalora_left_out_of_every_layer_prunes_nothing():
    model, params = drawn_model(aj.AdapterDrop(aj.AdaLoRA(), drop=LAYERS))
    assert {name: float(value) for name, value in model.measures(params).items()} == {"orthogonality": 0, "rank": 0}
    assert float(model.penalty(params)) == 0
    labels = model.labels(params)
    tx, _ = make_optimizer(model, Settings(lr=1e-3, steps=20), 20, labels)
    trained, _ = trees.split(params, labels)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(trained, tx.init(trained), trained)
    assert trees.flatten(updates).keys() == trees.flatten(trained).keys()
