"""AdapterFusion step by step in numpy, what is trained, its regulariser, pruning, and what cannot be fused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import optim, testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from adapters_jax.methods.adapter_drop import left_out
from adapters_jax.methods.fusion import attention
from adapters_jax.slots import Context
from adapters_jax.training.attention import mean_shares
from tests.methods.tiny import BACKBONE, BATCH, THREE, TINY, drawn_model, fresh_model, run

NAMES = ("mnli", "qqp", "sst2")
PARTS = (aj.Pfeiffer(bottleneck=4), aj.Pfeiffer(bottleneck=6), aj.Pfeiffer(bottleneck=4))
FUSION = aj.Fusion(PARTS, NAMES)


CTX = Context(BATCH["input_ids"], BATCH["mask"].astype(bool), jnp.zeros((*BATCH["mask"].shape, 16)), 0)


def released(fusion, query, outputs):
    """The equations of the released code, adapters' keys and values one by one, in float64: (result, attention)."""
    leaf = lambda *path: np.asarray(trees.flatten(fusion)["/".join(path)], np.float64)
    q = query @ leaf("query", "kernel") + leaf("query", "bias")
    keys = [a @ leaf("key", "kernel") + leaf("key", "bias") for a in outputs]
    values = [a @ leaf("value", "kernel") for a in outputs]
    scores = np.stack([(q * k).sum(-1) for k in keys], -1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return sum(shares[..., n, None] * value for n, value in enumerate(values)), shares


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + TINY.layer_norm_eps)
    return scaled * np.asarray(p["scale"]) + np.asarray(p["bias"])


def test_a_layer_is_as_released():
    model, params = drawn_model(FUSION)
    at = lambda tree, layer: jax.tree.map(lambda leaf: np.asarray(leaf[layer], np.float64), tree)
    rng = np.random.default_rng(0)
    y, residual = rng.normal(size=(2, 2, 5, TINY.hidden_size))
    layer = 1
    module = model.method.modules(TINY, 0)["ffn_merge"]
    own = jax.tree.map(
        lambda leaf: leaf[layer], model.method.expand(params["adapters"], None, TINY)["encoder"]["ffn_merge"]
    )
    plain = at(params["backbone"]["encoder"]["ffn_norm"], layer)
    found, sown = module.apply(
        {"params": own},
        *(jnp.asarray(a, jnp.float32) for a in (y, residual)),
        lambda x: jnp.asarray(norm(np.asarray(x), plain), jnp.float32),
        CTX,
        mutable=["aux"],
    )
    x = norm(residual + y, plain)
    bottleneck = lambda p: (
        np.maximum(x @ p["down"]["kernel"] + p["down"]["bias"], 0) @ p["up"]["kernel"] + p["up"]["bias"]
    )
    leaves = params["adapters"]
    outputs = [bottleneck(at(leaves[name]["encoder"]["ffn_merge"], layer)) for name in NAMES]
    mixed, shares = released(at(leaves["fusion"]["encoder"]["ffn_merge"], layer), x, outputs)
    np.testing.assert_allclose(found, norm(residual + y + mixed, plain), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sown["aux"]["fusion"]["attention"], shares, rtol=1e-4, atol=1e-6)


def test_attention_comes_back_for_every_layer_and_token():
    model, params = drawn_model(FUSION)
    found = attention(run(model, params).aux, TINY)
    assert list(found) == ["ffn_merge"] and list(found["ffn_merge"]) == [0, 1, 2]
    for shares in found["ffn_merge"].values():
        assert shares.shape == (*BATCH["input_ids"].shape, 3)
        np.testing.assert_allclose(shares.sum(-1), 1.0, rtol=1e-5)


def test_houlsby_adapters_are_fused_in_both_places():
    parts = tuple(aj.Houlsby(bottleneck=4, layer_norms=False, layers=layers) for layers in (None, (1, 2)))
    model, params = drawn_model(aj.Fusion(parts, ("a", "b")))
    found = attention(run(model, params).aux, TINY)
    assert [{layer: shares.shape[-1] for layer, shares in of_slot.items()} for of_slot in found.values()] == [
        {0: 1, 1: 2, 2: 2}
    ] * 2


def test_only_the_fusion_and_the_head_are_trained_and_values_do_not_decay():
    model, params = fresh_model(FUSION)
    trained, _ = trees.split(params, model.labels(params))
    paths = list(trees.flatten(trained))
    assert paths and all(path.startswith(("adapters/fusion/", "head/")) for path in paths)
    tx, _ = optim.make_optimizer(
        "adamw",
        lr=1.0,
        total_steps=10,
        warmup=0.0,
        schedule="constant",
        weight_decay=0.1,
        clip_norm=0.0,
        decays=model.method.decays,
    )
    zeros = jax.tree.map(jnp.zeros_like, trained)
    with jax.numpy_dtype_promotion("standard"):
        moved = trees.flatten(tx.update(zeros, tx.init(trained), trained)[0])
    still = {path for path, leaf in moved.items() if not np.any(leaf)}
    assert {path for path in still if path.endswith("kernel")} == {
        path for path in paths if path.endswith("fusion/encoder/ffn_merge/value/kernel")
    }


def test_a_fresh_fusion_is_near_the_mean_of_its_adapters():
    """Query and key are small, the value is near the identity: the shares are nearly even."""
    model, params = fresh_model(FUSION)
    leaves = trees.flatten(params["adapters"]["fusion"])
    value = np.asarray(leaves["encoder/ffn_merge/value/kernel"])
    np.testing.assert_allclose(value, np.broadcast_to(np.where(np.eye(16), 1.0, 1e-6), value.shape), rtol=1e-6)
    assert 0.015 < float(leaves["encoder/ffn_merge/query/kernel"].std()) < 0.025
    assert not np.any(leaves["encoder/ffn_merge/key/bias"])
    for shares in attention(run(model, params).aux, TINY)["ffn_merge"].values():
        np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_the_regulariser_is_in_the_gradient_of_the_same_step():
    model, params = drawn_model(dataclasses.replace(FUSION, regulariser=0.5))
    gradient = jax.grad(model.penalty)(params)["adapters"]["fusion"]["encoder"]["ffn_merge"]
    value = np.asarray(params["adapters"]["fusion"]["encoder"]["ffn_merge"]["value"]["kernel"])
    np.testing.assert_allclose(gradient["value"]["kernel"], 2 * 0.5 * (value - np.eye(16)), rtol=1e-4, atol=1e-6)
    assert not np.any(gradient["query"]["kernel"])
    expected = 0.5 * float(((value - np.eye(16)) ** 2).sum())
    np.testing.assert_allclose(model.penalty(params), expected, rtol=1e-5)


@pytest.mark.parametrize(("config", "count"), [(aj.BertConfig.base(), 21_252_096), (aj.BertConfig.large(), 75_546_624)])
def test_counts(config, count):
    model = aj.Model(config, aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("a", "b")), THREE)
    summary = model.summary(weights.abstract(config))
    assert summary.trained - summary.head == count


def test_pruning_keeps_the_named_adapters_and_the_fusion():
    model, params = drawn_model(FUSION)
    method, adapters = FUSION.keep(params["adapters"], ["sst2", "mnli"], TINY)
    assert method.names == ("mnli", "sst2") and set(adapters) == {"mnli", "sst2", "fusion"}
    found = run(dataclasses.replace(model, method=method), params | {"adapters": adapters})
    assert float(abs(found.logits - run(model, params).logits).max()) > 1e-5
    with pytest.raises(ConfigError, match="at least 2"):
        FUSION.keep(params["adapters"], ["sst2"], TINY)


def test_adapters_of_some_layers_are_fused_pruned_and_dropped():
    parts = aj.Pfeiffer(bottleneck=4, layers=(0,)), aj.Pfeiffer(bottleneck=4, layers=(0, 1)), aj.Pfeiffer(bottleneck=4)
    model, params = drawn_model(aj.Fusion(parts, ("a", "b", "c")))
    places = attention(run(model, params).aux, TINY)["ffn_merge"]
    assert {layer: shares.shape[-1] for layer, shares in places.items()} == {0: 3, 1: 2, 2: 1}
    method, adapters = model.method.keep(params["adapters"], ["a", "b"], TINY)
    pruned = dataclasses.replace(model, method=method)
    like = pruned.abstract(BACKBONE)["adapters"]
    assert jax.tree.structure(adapters) == jax.tree.structure(like)
    assert list(attention(run(pruned, params | {"adapters": adapters}).aux, TINY)["ffn_merge"]) == [0, 1]
    alone, _ = model.method.keep(params["adapters"], ["a", "b"], TINY)
    assert alone == method
    for drop in (1, 3):
        dropped, rest = left_out(model.method, params["adapters"], drop, TINY)
        assert np.isfinite(run(dataclasses.replace(model, method=dropped), params | {"adapters": rest}).logits).all()


def test_places_where_an_adapter_stands_alone_say_nothing_of_its_worth():
    shares = {"attn_merge": {"0": {"a": 1.0}}, "ffn_merge": {"0": {"a": 0.1, "b": 0.6, "c": 0.3}}}
    assert mean_shares(shares) == {"b": 0.6, "c": 0.3, "a": 0.1}


def test_the_artefact_holds_the_adapters_and_comes_back(tmp_path):
    backbone = testing.tiny_backbone(tmp_path / "backbone", TINY)
    model = aj.Model(TINY, FUSION, THREE)
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(tmp_path / "adapter", model, params, backbone)
    again, loaded = aj.load_adapter(tmp_path / "adapter", backbone)
    assert again == model
    testing.assert_same(loaded, params)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Fusion(PARTS[:1], ("a",)), "at least 2 adapters, got 1"),
        (lambda: aj.Fusion(PARTS, ("a", "b")), "a name for each"),
        (lambda: aj.Fusion(PARTS, ("a", "b", "a")), "each once"),
        (lambda: aj.Fusion(PARTS, ("a", "b", "fusion")), "none 'fusion'"),
        (lambda: aj.Fusion(PARTS, ("a", "b", "c/d")), "without /"),
        (
            lambda: aj.Fusion((PARTS[0], aj.Houlsby(bottleneck=4)), ("a", "b")),
            "houlsby changes leaves .*layer-norms=false",
        ),
        (lambda: aj.Fusion((PARTS[0], aj.LoRA()), ("a", "b")), "b is lora, which stands at query"),
        (lambda: aj.Fusion((PARTS[0], aj.Lin()), ("a", "b")), "b is lin, which stands at ffn_merge"),
        (lambda: aj.Fusion((PARTS[0], aj.Pfeiffer(invertible=True)), ("a", "b")), "stands at embed"),
    ],
)
def test_what_cannot_be_fused(make, match):
    with pytest.raises(ConfigError, match=match):
        aj.Model(TINY, make(), THREE)
