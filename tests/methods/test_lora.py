"""LoRA and DoRA: the definition in numpy, fresh leaves, counts, folding, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import fields, testing, trees
from adapters_jax.bert import weights
from adapters_jax.bert.ops import Dense
from adapters_jax.errors import ConfigError, NotFoldable
from adapters_jax.methods.lora import Decomposed, LowRank
from adapters_jax.slots import PROJECT, Context
from tests.methods.tiny import BACKBONE, THREE, TINY, run
from tests.methods.tiny import drawn_model as tiny


def numpy_kernels(adapters, scales, dora=False):
    """Layer-numbered path -> the kernel that stands for W and its change, by the definition."""
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in trees.to_layers(adapters).items()}
    kernels = {}
    for place in {path.rsplit("/", 1)[0] for path in flat}:
        kernel = np.asarray(trees.to_layers(BACKBONE)[f"{place}/kernel"], np.float64)
        changed = kernel + scales[place.split("/")[-1]] * flat[f"{place}/a"] @ flat[f"{place}/b"]
        if dora:
            changed = changed * flat[f"{place}/magnitude"] / np.sqrt((changed**2).sum(0))
        kernels[f"{place}/kernel"] = changed
    return kernels


def plain(kernels, head):
    """The plain backbone's last hidden states with some kernels replaced."""
    flat = trees.to_layers(BACKBONE) | {path: jnp.asarray(kernel, jnp.float32) for path, kernel in kernels.items()}
    params = {"backbone": trees.from_layers(flat, BACKBONE), "adapters": {}, "head": head}
    return np.asarray(run(aj.Model(TINY, aj.HeadOnly(), THREE), params).hidden)


CASES = {
    "query and value": (aj.LoRA(rank=4), {"query": 4.0, "value": 4.0}),
    "all slots": (aj.LoRA(slots=PROJECT, rank=2, alpha=3.0), dict.fromkeys(PROJECT, 1.5)),
    "two of three layers": (aj.LoRA(rank=4, layers=(0, 2)), {"query": 4.0, "value": 4.0}),
    "the middle layer": (aj.LoRA(slots=("ffn_out",), rank=4, layers=(1,)), {"ffn_out": 4.0}),
    "rank-stabilised": (aj.LoRA(rank=4, alpha=6.0, rank_stabilised=True), {"query": 3.0, "value": 3.0}),
    "own ranks": (
        aj.LoRA(slots=("key", "ffn_in"), ranks=(2, 5), alphas=(1.0, 10.0)),
        {"key": 0.5, "ffn_in": 2.0},
    ),
    "dora": (aj.LoRA(rank=4, dora=True), {"query": 4.0, "value": 4.0}),
    "dora on the feed-forward": (
        aj.LoRA(slots=("ffn_in", "ffn_out"), rank=4, dora=True, layers=(0, 1)),
        {
            "ffn_in": 4.0,
            "ffn_out": 4.0,
        },
    ),
}


@pytest.mark.parametrize("method, scales", CASES.values(), ids=CASES)
def test_the_definition(method, scales):
    model, params = tiny(method)
    kernels = numpy_kernels(params["adapters"], scales, method.dora)
    assert len(kernels) == len(scales) * len(method.layers or range(3))
    expected = plain(kernels, params["head"])
    assert np.abs(expected - plain({}, params["head"])).max() > 0.1
    np.testing.assert_allclose(run(model, params).hidden, expected, atol=2e-5)


def test_golden_tree():
    shapes = lambda method: {p: a.shape for p, a in trees.flatten(tiny(method)[1]["adapters"]).items()}
    assert shapes(aj.LoRA(slots=("key", "ffn_in"), rank=4)) == {
        "encoder/key/a": (3, 16, 4),
        "encoder/key/b": (3, 4, 16),
        "encoder/ffn_in/a": (3, 16, 4),
        "encoder/ffn_in/b": (3, 4, 32),
    }
    assert shapes(aj.LoRA(slots=("ffn_out",), ranks=(5,), dora=True, layers=(1, 2))) == {
        "encoder/1/ffn_out/a": (2, 32, 5),
        "encoder/1/ffn_out/b": (2, 5, 16),
        "encoder/1/ffn_out/magnitude": (2, 16),
    }


@pytest.mark.parametrize("init, bound", [("loralib", (1 / 256) ** 0.5), ("he", (6 / 256) ** 0.5)])
def test_fresh_leaves(init, bound):
    """A uniform within the bound (its standard deviation is bound / sqrt(3)), B zero, every layer its own."""
    config = aj.BertConfig.tiny(hidden_size=256)
    model = aj.Model(config, aj.LoRA(rank=64, init=init), THREE)
    params = model.init(jax.random.key(0), weights.initialise(jax.random.key(1), config))
    leaves = params["adapters"]["encoder"]
    for slot in ("query", "value"):
        a = np.asarray(leaves[slot]["a"])
        assert bound * 0.99 < np.abs(a).max() <= bound
        np.testing.assert_allclose(a.std(), bound / 3**0.5, rtol=0.02)
        np.testing.assert_allclose(a.mean(), 0.0, atol=bound / 50)
        assert np.any(a[0] != a[1]) and not np.any(leaves[slot]["b"])
    assert np.any(leaves["query"]["a"] != leaves["value"]["a"])


@pytest.mark.parametrize(
    "method, base, large",
    [
        (aj.LoRA(), 294_912, 786_432),
        (aj.LoRA(dora=True), 313_344, 835_584),
        (aj.LoRA(slots=PROJECT, rank=2), 331_776, None),
    ],
)
def test_counts_of_the_papers(method, base, large):
    """2 L 2 d r, and 2 L d more with DoRA; all six slots: 18 d r a layer."""
    for config, count in ((aj.BertConfig.base(), base), (aj.BertConfig.large(), large)):
        summary = aj.Model(config, method, THREE).summary(weights.abstract(config))
        assert count is None or (summary.adapter, summary.backbone_trained) == (count, 0)


def test_only_adapters_and_head_are_trained():
    model, params = tiny(aj.LoRA(dora=True))
    trained = [p for p, label in trees.flatten(model.labels(params)).items() if label != "frozen"]
    assert {path.split("/")[0] for path in trained} == {"adapters", "head"}
    assert {p.split("/")[-1] for p in trained if p.startswith("adapters")} == {"a", "b", "magnitude"}


@pytest.mark.parametrize("method", [aj.LoRA(), aj.LoRA(dora=True, slots=PROJECT), aj.LoRA(dora=True, layers=(1,))])
def test_the_plain_backbone_at_initialisation(method):
    model = aj.Model(TINY, method, THREE)
    params = model.init(jax.random.key(0), BACKBONE)
    np.testing.assert_allclose(run(model, params).hidden, plain({}, params["head"]), atol=1e-6)


def test_magnitudes_start_at_the_norms_of_the_backbone_in_whatever_runs():
    cut = BACKBONE | {"encoder": trees.split_runs(BACKBONE["encoder"], 3, (0, 1))}
    for backbone in (BACKBONE, cut):
        params = aj.Model(TINY, aj.LoRA(dora=True, slots=("ffn_in",), layers=(0, 2)), THREE).init(
            jax.random.key(0), backbone
        )
        kernels = np.asarray(BACKBONE["encoder"]["ffn_in"]["kernel"], np.float64)
        for layer in (0, 2):
            found = params["adapters"]["encoder"][str(layer)]["ffn_in"]["magnitude"][0]
            np.testing.assert_allclose(found, np.sqrt((kernels[layer] ** 2).sum(0)), rtol=1e-6)


def dense_of(kernel, bias):
    return Dense({"kernel": kernel, "bias": bias})


def numbers(*shapes):
    rng = np.random.default_rng(3)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


CTX = Context(jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool), jnp.zeros((2, 3, 6)), 0)


def test_doras_gradient_takes_the_norm_as_a_constant():
    """By hand: with n = |V| held fixed, y = (m / n) (x V) + b, so dy/dA, dB, dm follow from the product alone."""
    x, kernel, bias, a, b, magnitude, weight = numbers((2, 3, 6), (6, 5), (5,), (6, 2), (2, 5), (5,), (2, 3, 5))
    module, scale = Decomposed(rank=2, scale=0.5), 0.5

    def loss(leaves):
        return (weight * module.apply({"params": leaves}, x, dense_of(kernel, bias), CTX)).sum()

    found = jax.grad(loss)({"a": a, "b": b, "magnitude": magnitude})
    x, kernel, a, b, m, weight = (np.asarray(v, np.float64) for v in (x, kernel, a, b, magnitude, weight))
    changed = kernel + scale * a @ b
    norms = np.sqrt((changed**2).sum(0))
    outer = np.einsum("bti,bto->io", x, weight * m / norms)
    np.testing.assert_allclose(found["a"], scale * outer @ b.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["b"], scale * a.T @ outer, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["magnitude"], (weight * (x @ changed)).sum((0, 1)) / norms, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_input_of_a():
    """What is dropped is read off a LoRA whose A and B are the identity; DoRA drops the same for the same key."""
    x, kernel, bias, a, b, magnitude = numbers((2, 3, 6), (6, 6), (6,), (6, 2), (2, 6), (6,))
    dense, rngs, eye = dense_of(kernel, bias), {"dropout": jax.random.key(7)}, jnp.eye(6)
    whole = LowRank(rank=6, scale=1.0, dropout=0.5).apply({"params": {"a": eye, "b": eye}}, x, dense, CTX, rngs=rngs)
    seen = np.asarray(whole - dense(x))
    kept = np.isclose(seen, 2 * x, atol=1e-5)
    assert 0.2 < kept.mean() < 0.8 and np.all(kept | np.isclose(seen, 0, atol=1e-5))
    leaves = {"a": a, "b": b, "magnitude": magnitude}
    found = Decomposed(rank=2, scale=0.5, dropout=0.5).apply({"params": leaves}, x, dense, CTX, rngs=rngs)
    x, kernel, bias, a, b, magnitude = (np.asarray(v) for v in (x, kernel, bias, a, b, magnitude))
    ratio = magnitude / np.sqrt(((kernel + 0.5 * a @ b) ** 2).sum(0))
    expected = x @ kernel + bias + (ratio - 1) * (seen @ kernel) + ratio * 0.5 * (seen @ a @ b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_acts_in_training_alone(dora):
    still, params = tiny(aj.LoRA(rank=4, dora=dora))
    dropping = dataclasses.replace(still, method=dataclasses.replace(still.method, dropout=0.5))
    np.testing.assert_array_equal(run(still, params).logits, run(dropping, params).logits)
    key = jax.random.key(0)
    assert np.any(run(still, params, key).logits != run(dropping, params, key).logits)


@pytest.mark.parametrize("method", [aj.LoRA(), aj.LoRA(dora=True)])
def test_computes_in_the_models_type(method):
    model, params = tiny(method)
    half = run(dataclasses.replace(model, dtype="bfloat16"), params)
    assert half.hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.logits, run(model, params).logits, atol=0.03)


@pytest.mark.parametrize("method", [case[0] for case in CASES.values()], ids=CASES)
@pytest.mark.parametrize("starts", [(0,), (0, 1)], ids=["one run", "two runs"])
def test_fold_and_unfold(method, starts):
    """The runs of the backbone and of the adapters may differ; what was given stays as it was."""
    backbone = BACKBONE | {"encoder": trees.split_runs(BACKBONE["encoder"], 3, starts)}
    model, params = tiny(method, backbone)
    before = jax.tree.map(np.array, params)
    bare, folded = model.fold(params)
    assert (bare.method, folded["adapters"]) == (aj.Full(), {})
    testing.assert_same(params, before)
    np.testing.assert_allclose(run(bare, folded).hidden, run(model, params).hidden, atol=2e-5)
    np.testing.assert_allclose(run(bare, folded).logits, run(model, params).logits, atol=2e-6)
    changed = set(trees.diff(folded["backbone"], params["backbone"]))
    assert changed == {f"encoder/{i}/{slot}/kernel" for i in method.layers or range(3) for slot in method.slots}
    if method.dora:
        with pytest.raises(NotFoldable, match="no longer tell the norm"):
            method.unfold(folded["backbone"], params["adapters"])
    else:
        again = method.unfold(folded["backbone"], params["adapters"])
        for path, leaf in trees.to_layers(params["backbone"]).items():
            np.testing.assert_allclose(trees.to_layers(again)[path], leaf, atol=1e-7, err_msg=path)


def test_folds_in_float32_whatever_the_backbones_type():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BACKBONE)
    model, params = tiny(aj.LoRA(rank=4), half)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    query = lambda backbone: backbone["encoder"]["query"]["kernel"]
    exact = query(model.method.fold(wide, params["adapters"]))
    found = query(model.method.fold(half, params["adapters"]))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
    np.testing.assert_array_equal(query(model.fold(params)[1]["backbone"]), exact)


def test_what_is_no_change_of_weights_is_not_folded():
    model, params = tiny(aj.Houlsby(bottleneck=4))
    with pytest.raises(NotFoldable, match="houlsby cannot be folded into the backbone: its modules stand between"):
        model.fold(params)


BAD = {
    "unknown slot": (dict(slots=("query", "valeu")), "method.slots: unknown slots 'valeu'.*did you mean 'value'"),
    "slot twice": (dict(slots=("query", "query")), "method.slots: expected some of .*, each once"),
    "no slot": (dict(slots=()), "method.slots: expected some of"),
    "rank 0": (dict(rank=0), "method.rank: expected a whole number of at least 1, got 0"),
    "alpha 0": (dict(alpha=0.0), "method.alpha: expected a finite number above 0, got 0.0"),
    "alpha nan": (dict(alpha=float("nan")), "method.alpha: expected a finite number above 0, got nan"),
    "ranks too few": (dict(ranks=(8,)), "method.ranks: expected 2 values, one for each of query, value, got 1"),
    "alphas too many": (dict(alphas=(8.0, 8.0, 8.0)), "method.alphas: expected 2 values, .* got 3"),
    "one rank 0": (dict(ranks=(8, 0)), "method.ranks: expected a whole number of at least 1, got 0"),
    "one alpha negative": (dict(alphas=(8.0, -1.0)), "method.alphas: expected a finite number above 0, got -1.0"),
    "dropout 1": (dict(dropout=1.0), r"method.dropout: expected a rate in \[0, 1\), got 1.0"),
    "unknown init": (dict(init="kaiming"), "method.init: unknown init 'kaiming': known are loralib, he"),
    "rank above the width": (dict(rank=17), "method.rank: expected at most 16, the width at query, got 17"),
    "one rank above the width": (dict(ranks=(8, 17)), "method.ranks: expected at most 16, the width at value, got 17"),
    "layer that is not there": (dict(layers=(0, 3)), "method.layers: expected some of 0 to 2, each once"),
    "no layer": (dict(layers=()), "method.layers: expected some of 0 to 2, each once"),
}


@pytest.mark.parametrize("given, message", BAD.values(), ids=BAD)
def test_bad_values_are_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message) as error:
        aj.Model(TINY, aj.LoRA(**given), THREE)
    assert "\n" not in str(error.value)


def test_rank_as_large_as_the_width():
    tiny(aj.LoRA(rank=16, slots=("query", "ffn_in")))


def test_hyper_parameters_through_a_manifest():
    method = aj.LoRA(slots=("key", "ffn_in"), ranks=(2, 3), alphas=(1.0, 2.0), dora=True, layers=(1,))
    stored = {k: list(v) if isinstance(v, tuple) else v for k, v in method.to_dict().items()}
    assert fields.build("method", aj.METHODS, stored) == method
