"""Several methods at once: what they compute together, how their trees stand, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields, testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError, NotFoldable
from adapters_jax.methods.unipelt import Gate
from adapters_jax.slots import Context
from tests.methods.tiny import TINY

THREE = aj.Classification(num_labels=3)
BATCH = testing.fake_batch(TINY)


def build(method: aj.Method) -> tuple[aj.Model, dict]:
    model = aj.Model(TINY, method, THREE)
    params = model.init(jax.random.key(0), weights.initialise(jax.random.key(1), TINY))
    return model, params | {"adapters": testing.perturb(params["adapters"], scale=0.2)}


def test_parts_keep_their_own_trees():
    _, params = build(aj.compose(aj.Houlsby(bottleneck=4, layer_norms=False), aj.LoRA(rank=2), aj.LoRA(rank=4)))
    assert list(params["adapters"]) == ["houlsby", "lora", "lora_2"]
    alone = aj.Model(TINY, aj.LoRA(rank=4), THREE).abstract(weights.abstract(TINY))["adapters"]
    shape = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shape(params["adapters"]["lora_2"]) == shape(alone)


def test_two_loras_add_their_changes():
    """Not the second on the first one's low-rank result, as `Stack` of `adapters` has it."""
    model, params = build(aj.compose(aj.LoRA(rank=2), aj.LoRA(rank=4, slots=("query", "key"))))
    found = model.apply(params, BATCH).logits
    backbone = params["backbone"]
    for part, method in model.method.by_name.items():
        backbone = method.fold(backbone, params["adapters"][part])
    plain = aj.Model(TINY, aj.HeadOnly(), THREE)
    expected = plain.apply({"backbone": backbone, "adapters": {}, "head": params["head"]}, BATCH).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_deltas_add_up_and_the_part_without_one_comes_last():
    draw = np.random.default_rng(0)
    y, r = (jnp.asarray(draw.standard_normal((2, 5, 16)), jnp.float32) for _ in range(2))
    ctx, norm = Context(jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 5), bool), r, 0), lambda x: jnp.tanh(x)
    first, second, last = aj.Houlsby(bottleneck=4), aj.Parallel(bottleneck=4), aj.Lin(bottleneck=4)
    whole = aj.compose(first, last, second)
    module = whole.modules(TINY, 0)["ffn_merge"]
    params = testing.perturb(module.init(jax.random.key(0), y, r, norm, ctx)["params"], scale=0.3)
    own = lambda method: method.modules(TINY, 0)["ffn_merge"]
    delta = lambda method: own(method).apply({"params": params[method.name]}, y, r, norm, ctx, method="delta")
    expected = own(last).apply({"params": params["lin"]}, y + delta(first) + delta(second), r, norm, ctx)
    np.testing.assert_allclose(module.apply({"params": params}, y, r, norm, ctx), expected, rtol=1e-5, atol=1e-6)


def test_prefixes_stand_in_front_of_prefixes():
    model, params = build(aj.compose(aj.Prefix(length=2, bottleneck=0), aj.Prefix(length=3, bottleneck=0)))
    adapters = params["adapters"]
    both = {
        name: jnp.concatenate([adapters[part]["encoder"]["key_value"][name] for part in ("prefix_2", "prefix")], axis=1)
        for name in ("k", "v")
    }
    one, _ = build(aj.Prefix(length=5, bottleneck=0))
    expected = one.apply(params | {"adapters": {"encoder": {"key_value": both}}}, BATCH).logits
    np.testing.assert_allclose(model.apply(params, BATCH).logits, expected, rtol=1e-5, atol=1e-6)


def test_parts_in_unlike_layers():
    parts = aj.Houlsby(bottleneck=4, layers=(1,), layer_norms=False), aj.Prefix(length=2, bottleneck=4, layers=(0, 2))
    model, params = build(aj.compose(*parts))
    assert model.method.segments(TINY) == (0, 1, 2)
    expanded = model.method.expand(params["adapters"], None, TINY)["encoder"]
    assert {start: list(run) for start, run in expanded.items()} == {
        "0": ["key_value"],
        "1": ["attn_merge", "ffn_merge"],
        "2": ["key_value"],
    }
    assert np.isfinite(model.apply(params, BATCH).logits).all()


def test_backbone_leaves_are_trained_where_any_part_trains_them():
    model, params = build(aj.compose(aj.LoRA(rank=2), aj.BitFit(biases=("query",))))
    trained, _ = trees.split(params, model.labels(params))
    paths = set(trees.flatten(trained["backbone"]))
    assert paths == {"encoder/query/bias"}


def test_stored_and_rebuilt():
    method = aj.compose(aj.Prefix(length=2), aj.LoRA(slots=("query", "ffn_in"), rank=2), aj.Houlsby(layers=(0, 2)))
    stored = json.loads(json.dumps(method.to_dict()))
    assert fields.build("method", aj.METHODS, stored) == method
    with pytest.raises(ConfigError, match="a list of mappings"):
        fields.build("method", aj.METHODS, {"name": "compose", "parts": ["lora"]})
    with pytest.raises(ConfigError, match="unknown method 'lorra'"):
        fields.build("method", aj.METHODS, {"name": "compose", "parts": [{"name": "lorra"}]})


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ((), "expected 1 to 16 methods"),
        ((aj.Lin(bottleneck=2), aj.Lin(bottleneck=4)), "lin and lin_2 both replace the whole of ffn_merge"),
        ((aj.Prompt(length=2, read="first"), aj.Prompt(length=2, read="first")), "both stand in the slot output"),
        ((aj.Prompt(length=2), aj.Prompt(length=2, insertion="encoder")), "at different places"),
        ((aj.Prompt(length=2, ensemble=2), aj.LoRA(rank=2)), "it stands alone"),
        ((aj.LoRA(rank=2), aj.LoRA(rank=17)), "method.rank"),
    ],
)
def test_what_cannot_be_combined_is_refused(parts, match):
    with pytest.raises(ConfigError, match=match):
        aj.Model(TINY, aj.compose(*parts), THREE)


def test_what_reads_weights_comes_first():
    aj.Model(TINY, aj.compose(aj.LoRA(rank=2, dora=True), aj.LoRA(rank=2)), THREE)
    with pytest.raises(
        ConfigError, match="lora_2 reads the layer's own weights at query: expected it as the first part"
    ):
        aj.Model(TINY, aj.compose(aj.LoRA(rank=2), aj.LoRA(rank=2, dora=True)), THREE)


OF_OTHERS = ("adapter_drop", "compose", "frozen", "fusion", "mam", "stack", "unipelt")


@pytest.mark.parametrize("name", [name for name in aj.METHODS if name not in OF_OTHERS])
def test_two_of_a_kind_are_both_there(name: str):
    method = aj.compose(aj.METHODS[name](), aj.METHODS[name]())
    assert list(method.by_name) == [name, f"{name}_2"]


def test_compositions_in_compositions():
    inner = aj.compose(aj.LoRA(rank=2), aj.Prefix(length=2))
    assert aj.compose(inner, aj.IA3()) == aj.compose(*inner.parts, aj.IA3())
    with pytest.raises(ConfigError, match="mam is a composition itself: expected its parts"):
        aj.compose(aj.MAM(), aj.LoRA())
    with pytest.raises(ConfigError, match="expected 1 to 16 methods"):
        aj.compose(*[aj.LoRA()] * 17)
    stored = {"name": "compose", "parts": []}
    for _ in range(400):
        stored = {"name": "compose", "parts": [stored]}
    with pytest.raises(ConfigError, match="at most 4 objects inside each other"):
        fields.build("method", aj.METHODS, stored)


def test_folding_needs_all_parts_to_fold():
    model, params = build(aj.compose(aj.LoRA(rank=2), aj.Pfeiffer(bottleneck=2)))
    with pytest.raises(NotFoldable, match="pfeiffer cannot be folded"):
        model.fold(params)


def test_gates_do_not_see_padding():
    """A gate is the mean over a row's tokens; the same row with padding has the same gate."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal((2, 6, 16)), jnp.float32)
    mask = jnp.asarray([[1, 1, 1, 1, 0, 0], [1] * 6], bool)
    ctx = Context(jnp.zeros((2, 6), jnp.int32), mask, x, 0)
    params = testing.perturb(Gate().init(jax.random.key(0), x, ctx)["params"], scale=0.5)
    found = np.asarray(Gate().apply({"params": params}, x, ctx))[:, 0, 0]
    kernel, bias = (np.asarray(params["gate"][name]) for name in ("kernel", "bias"))
    each = (1 / (1 + np.exp(-(np.asarray(x) @ kernel + bias))))[..., 0]
    np.testing.assert_allclose(found, [each[0, :4].mean(), each[1].mean()], rtol=1e-5)
    short = dataclasses.replace(ctx, mask=mask[:1, :4], input_ids=ctx.input_ids[:1, :4], hidden=x[:1, :4])
    np.testing.assert_allclose(Gate().apply({"params": params}, x[:1, :4], short)[0, 0, 0], found[0], rtol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        aj.MAM(length=3, prefix_bottleneck=4, bottleneck=4),
        aj.UniPELT(length=3, prefix_bottleneck=4, reduction_factor=4.0, rank=2),
        aj.compose(aj.PTuning(length=3), aj.LoRA(rank=2), aj.Prompt(length=2)),
    ],
)
def test_flattened_is_the_same_function_without_the_networks(method: aj.Method):
    model, params = build(method)
    flat, adapters = method.flattened(params["adapters"], TINY)
    other = aj.Model(TINY, flat, THREE)
    assert not any("prefix/prefix" in path or "p_tuning" in path for path in trees.flatten(adapters))
    like = other.abstract(weights.abstract(TINY))["adapters"]
    assert jax.tree.structure(adapters) == jax.tree.structure(like)
    found = other.apply(params | {"adapters": adapters}, BATCH).logits
    np.testing.assert_allclose(found, model.apply(params, BATCH).logits, rtol=1e-5, atol=1e-6)


def test_presets_are_compositions():
    assert [part.name for part in aj.MAM().components()] == ["prefix", "parallel"]
    assert aj.MAM().components()[0] == aj.Prefix(length=30, bottleneck=800)
    assert [part.name for part in aj.UniPELT().components()] == ["prefix", "pfeiffer", "lora"]
