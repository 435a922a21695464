"""(IA)^3: the definition in numpy, counts, folding, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields, optim, testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError, NotFoldable
from adapters_jax.slots import PROJECT
from tests.methods.tiny import BACKBONE, THREE, TINY, run
from tests.methods.tiny import drawn_model as tiny


def plain(weights, head):
    """The plain backbone's last hidden states with some weights replaced."""
    flat = trees.to_layers(BACKBONE) | {path: jnp.asarray(leaf, jnp.float32) for path, leaf in weights.items()}
    params = {"backbone": trees.from_layers(flat, BACKBONE), "adapters": {}, "head": head}
    return np.asarray(run(aj.Model(TINY, aj.HeadOnly(), THREE), params).hidden)


def numpy_weights(adapters, inputs):
    """Layer-numbered path -> the weights that stand for W, b and the scale, by the definition.

    Args:
        inputs: the slots where it is the dense layer's input that is scaled.
    """
    found = {}
    for path, scale in trees.to_layers(adapters).items():
        place, scale = path.rsplit("/", 1)[0], np.asarray(scale, np.float64)
        kernel, bias = (np.asarray(trees.to_layers(BACKBONE)[f"{place}/{kind}"]) for kind in ("kernel", "bias"))
        late = place.split("/")[-1] in inputs
        found[f"{place}/kernel"] = np.diag(scale) @ kernel if late else kernel @ np.diag(scale)
        found[f"{place}/bias"] = bias if late else bias * scale
    return found


CASES = {
    "adapters": (aj.IA3(), ("key", "value", "ffn_in"), ()),
    "paper": (aj.IA3(preset="paper"), ("key", "value", "ffn_out"), ("ffn_out",)),
    "all slots": (aj.IA3(slots=PROJECT), PROJECT, ()),
    "two of three layers": (aj.IA3(layers=(0, 2)), ("key", "value", "ffn_in"), ()),
    "results of ffn_out": (aj.IA3(slots=("ffn_out",), preset="paper", layers=(1,)), ("ffn_out",), ()),
}


@pytest.mark.parametrize("method, places, inputs", CASES.values(), ids=CASES)
def test_the_definition(method, places, inputs):
    model, params = tiny(method)
    changed = numpy_weights(params["adapters"], inputs)
    layers = method.layers or range(3)
    assert set(changed) == {
        f"encoder/{i}/{slot}/{kind}" for i in layers for slot in places for kind in ("kernel", "bias")
    }
    expected = plain(changed, params["head"])
    assert np.abs(expected - plain({}, params["head"])).max() > 0.05
    np.testing.assert_allclose(run(model, params).hidden, expected, atol=2e-5)


def test_golden_tree_and_start():
    for preset, last in (("adapters", "ffn_in"), ("paper", "ffn_out")):
        model = aj.Model(TINY, aj.IA3(preset=preset), THREE)
        params = model.init(jax.random.key(0), BACKBONE)
        leaves = trees.flatten(params["adapters"])
        assert {path: leaf.shape for path, leaf in leaves.items()} == {
            "encoder/key/scale": (3, 16),
            "encoder/value/scale": (3, 16),
            f"encoder/{last}/scale": (3, 32),
        }
        assert all(np.all(leaf == 1) for leaf in leaves.values())
        np.testing.assert_array_equal(run(model, params).hidden, plain({}, params["head"]))


@pytest.mark.parametrize("preset", ["adapters", "paper"])
def test_counts_of_the_papers(preset):
    """L (2 d + f)."""
    for config, count in ((aj.BertConfig.base(), 55_296), (aj.BertConfig.large(), 147_456)):
        summary = aj.Model(config, aj.IA3(preset=preset), THREE).summary(weights.abstract(config))
        assert (summary.adapter, summary.backbone_trained) == (count, 0)


def test_computes_in_the_models_type():
    model, params = tiny(aj.IA3())
    half = run(dataclasses.replace(model, dtype="bfloat16"), params)
    assert half.hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.hidden.astype(jnp.float32), run(model, params).hidden, atol=0.3)


@pytest.mark.parametrize("method", [case[0] for case in CASES.values()], ids=CASES)
def test_fold_and_unfold(method):
    """The runs of the backbone and of the adapters may differ; what was given stays as it was."""
    backbone = BACKBONE | {"encoder": trees.split_runs(BACKBONE["encoder"], 3, (0, 1))}
    model, params = tiny(method, backbone)
    before = jax.tree.map(np.array, params)
    bare, folded = model.fold(params)
    testing.assert_same(params, before)
    np.testing.assert_allclose(run(bare, folded).hidden, run(model, params).hidden, atol=2e-5)
    np.testing.assert_allclose(run(bare, folded).logits, run(model, params).logits, atol=1e-5)
    again = trees.to_layers(method.unfold(folded["backbone"], params["adapters"]))
    for path, leaf in trees.to_layers(backbone).items():
        np.testing.assert_allclose(again[path], leaf, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("value", [0.0, 1e-7, -1e-9, float("nan")])
def test_a_scale_near_zero_is_not_divided_back(value):
    method = aj.IA3()
    _, params = tiny(method)
    params["adapters"]["encoder"]["value"]["scale"] = (
        params["adapters"]["encoder"]["value"]["scale"].at[1, 2].set(value)
    )
    folded = method.fold(params["backbone"], params["adapters"])
    with pytest.raises(NotFoldable, match="ia3 cannot be unfolded: adapters/encoder/value/scale holds"):
        method.unfold(folded, params["adapters"])


BAD = {
    "unknown slot": (dict(slots=("key", "ffn")), "method.slots: unknown slots 'ffn'"),
    "slot twice": (dict(slots=("key", "key")), "method.slots: expected some of .*, each once"),
    "unknown preset": (dict(preset="peft"), "method.preset: unknown preset 'peft': known are adapters, paper"),
    "two in one place": (dict(preset="paper", slots=("ffn_in", "ffn_out")), "method.slots: expected one of ffn_in"),
    "layer that is not there": (dict(layers=(3,)), "method.layers: expected some of 0 to 2, each once"),
}


@pytest.mark.parametrize("given, message", BAD.values(), ids=BAD)
def test_bad_values_are_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message) as error:
        aj.Model(TINY, aj.IA3(**given), THREE)
    assert "\n" not in str(error.value)


def test_recipe_and_manifest():
    method = aj.IA3(preset="paper", layers=(0, 1))
    assert method.recipe.optimizer in optim.OPTIMIZERS
    stored = {k: list(v) if isinstance(v, tuple) else v for k, v in method.to_dict().items()}
    assert fields.build("method", aj.METHODS, stored) == method
