"""What every method must satisfy: a row of the table for each method and preset, none exempted without a reason there.

Some tests run each method's plain row on an encoder of another family too: ELECTRA, RoBERTa, DistilBERT in turn, since
each pair compiles anew; XLM-R's function is RoBERTa's.

The golden trees are written by `python -m tests.methods.golden`.
"""

import dataclasses
import functools
import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adapters_jax as aj
from adapters_jax import optim, testing, trees
from adapters_jax.bert import quant, weights
from adapters_jax.errors import NotFoldable
from tests.methods.encoders import CONFIGS
from tests.methods.golden import shapes
from tests.methods.row import ASIDE, BESIDE, BETWEEN, FRONT, Row
from tests.methods.table import PARAMETERS, ROWS_BY_NAME
from tests.methods.tiny import TINY

THREE = aj.Classification(num_labels=3)
BATCH = testing.fake_batch(TINY)
SLOW = pytest.mark.slow  # presets and options: the methods as they are run with every `make test`
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in aj.METHODS else SLOW) for name in ROWS_BY_NAME]
)
OTHERS = ("electra", "roberta", "distilbert")
EVERYWHERE = pytest.mark.parametrize(
    ("name", "family"),
    [
        *(pytest.param(name, "bert", id=name, marks=() if name in aj.METHODS else SLOW) for name in ROWS_BY_NAME),
        *(pytest.param(*pair, marks=SLOW) for pair in zip(aj.METHODS, itertools.cycle(OTHERS), strict=False)),
    ],
)


def row(name: str) -> Row:
    return ROWS_BY_NAME[name]


@functools.cache
def backbone(quantize: str | None = None, family: str = "bert") -> dict:
    if quantize is not None:
        return quant.quantise(backbone(None, family), quantize)[0]
    drawn = weights.initialise(jax.random.key(1), CONFIGS.get(family, TINY), pooler=family == "bert")
    return testing.perturb(drawn, scale=0.02)


@functools.cache
def fresh(name: str, family: str = "bert") -> tuple[aj.Model, dict]:
    model = aj.Model(CONFIGS.get(family, TINY), row(name).tiny, THREE)
    return model, model.init(jax.random.key(0), backbone(row(name).quantize, family))


def shaken(tree: dict, seed: int = 1) -> dict:
    """The tree with noise on every leaf."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.05 * draw.standard_normal(leaf.shape), leaf.dtype), tree)


@functools.cache
def moved(name: str, family: str = "bert") -> dict:
    """Trained leaves away from their initial values."""
    model, params = fresh(name, family)
    trained, frozen = trees.split(params, model.labels(params))
    return trees.join(shaken(trained), frozen)


def loss(model: aj.Model, trained: dict, frozen: dict):
    total, weight = model.loss(trees.join(trained, frozen), BATCH)
    return total / weight


def parts(name: str, params: dict) -> tuple[dict, dict]:
    return trees.split(params, fresh(name)[0].labels(params))


@functools.cache
def compiled(model: aj.Model):
    return jax.jit(model.apply)


def run(model: aj.Model, params: dict, key=None) -> aj.Output:
    return compiled(model)(params, BATCH, key)


@functools.cache
def evaluated(name: str, family: str = "bert") -> aj.Output:
    return run(fresh(name, family)[0], moved(name, family))


@EVERY
def test_starts_as_stated(name: str):
    model, params = fresh(name)
    own = {"backbone": backbone(row(name).quantize), "adapters": {}, "head": params["head"]}
    plain = run(aj.Model(TINY, aj.HeadOnly(), THREE), own)
    ours = run(model, params)
    gap = float(abs(ours.hidden - plain.hidden).max())
    if row(name).start is None:
        assert gap > 1e-3
    elif row(name).start == 0:
        np.testing.assert_array_equal(ours.hidden, plain.hidden)
        np.testing.assert_array_equal(ours.logits, plain.logits)
    else:
        assert gap <= row(name).start


@EVERY
def test_trained_leaves_move_the_output(name: str):
    model, params = fresh(name)
    head = {"head": params["head"]}
    gap = float(abs(run(model, moved(name) | head).hidden - run(model, params).hidden).max())
    if name in ("head", "frozen"):
        assert not trees.flatten(parts(name, params)[0] | {"head": {}}) and gap == 0
    else:
        assert gap > 1e-4


@EVERY
def test_every_trained_leaf_gets_a_gradient_within_two_steps(name: str):
    model, params = fresh(name)
    trained, frozen = parts(name, params)
    gradient_of = jax.jit(jax.grad(functools.partial(loss, model)))
    seen: dict[str, bool] = {}
    for _ in range(2):
        gradients = gradient_of(trained, frozen)
        for path, gradient in trees.to_layers(gradients).items():
            assert np.isfinite(gradient).all(), path
            seen[path] = seen.get(path, False) or bool(np.any(np.asarray(gradient) != 0))
        trained = jax.tree.map(lambda leaf, gradient: leaf - 0.1 * gradient, trained, gradients)
    exempt = tuple(row(name).no_gradient)
    assert [
        path for path, any_gradient in seen.items() if not any_gradient and not path.endswith(exempt or ("//",))
    ] == []


@EVERYWHERE
def test_only_labelled_leaves_move(name: str, family: str):
    """Under AdamW with decay and clipping, over the full tree, fed a gradient for every leaf."""
    model, params = fresh(name, family)
    labels = model.labels(params)
    settings = dict(lr=1e-2, total_steps=10, warmup=0.0, schedule="constant", weight_decay=0.1, clip_norm=1.0)
    tx = aj.freeze(optim.make_optimizer("adamw", **settings)[0], labels)

    @jax.jit
    def step(params: dict) -> dict:
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        return aj.apply_updates(params, updates)

    with jax.numpy_dtype_promotion("standard"):
        after = step(params)
    changed = set(trees.diff(params, after))
    trained, _ = trees.split(params, labels)
    assert changed == set(trees.to_layers(trained))


@EVERYWHERE
def test_jit_equals_eager_and_scan_equals_loop(name: str, family: str):
    with jax.disable_jit():
        found = dataclasses.replace(fresh(name, family)[0], scan_layers=False).apply(moved(name, family), BATCH)
    np.testing.assert_allclose(found.logits, evaluated(name, family).logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.hidden, evaluated(name, family).hidden, rtol=1e-4, atol=1e-5)


@EVERYWHERE
def test_bfloat16_stays_near_float32(name: str, family: str):
    model = dataclasses.replace(fresh(name, family)[0], dtype="bfloat16")
    low, params = run(model, moved(name, family)), moved(name, family)
    assert low.hidden.dtype == jnp.bfloat16 and low.logits.dtype == jnp.float32
    assert testing.relative_error(low.hidden.astype(jnp.float32), evaluated(name, family).hidden) < 0.04
    trained, _ = trees.split(params, model.labels(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}


@EVERY
def test_vmap_over_adapters_equals_one_by_one(name: str):
    model, params = fresh(name)
    trained, frozen = parts(name, params)
    several = [parts(name, moved(name))[0], shaken(trained, seed=2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    found = jax.jit(jax.vmap(lambda trained: model.apply(trees.join(trained, frozen), BATCH).logits))(stacked)
    for number, trained in enumerate(several):
        alone = run(model, trees.join(trained, frozen)).logits
        np.testing.assert_allclose(found[number], alone, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"), TINY)


@EVERY
def test_save_and_load_are_exact(name: str, installed: aj.Backbone, tmp_path: Path):
    model = fresh(name)[0]
    if row(name).quantize is not None:
        installed = aj.load_backbone(installed.name, quantize=row(name).quantize)
    with jax.numpy_dtype_promotion("standard"):
        params = model.init(jax.random.key(0), installed.params)
        trained, frozen = trees.split(params, model.labels(params))
        params = trees.join(shaken(trained), frozen)
        aj.save_adapter(tmp_path / "adapter", model, params, installed)
        again, loaded = aj.load_adapter(tmp_path / "adapter", installed)
    assert again == model
    testing.assert_same(loaded, params)


@EVERYWHERE
def test_folding(name: str, family: str):
    model, params = fresh(name, family)[0], moved(name, family)
    backbone, adapters, method = quant.dequantise(params["backbone"]), params["adapters"], model.method
    if row(name).folds not in ("both", "forth"):
        with pytest.raises(NotFoldable, match=f"cannot be folded into the backbone: .*{re.escape(row(name).folds)}"):
            model.fold(params)
        return
    before = jax.tree.map(np.array, params)
    plain, folded = model.fold(params)
    testing.assert_same(params, before)
    assert plain.method == aj.Full() and folded["adapters"] == {}
    np.testing.assert_allclose(run(plain, folded).logits, evaluated(name, family).logits, rtol=1e-4, atol=1e-5)
    like = plain.abstract(weights.abstract(model.config, pooler=family == "bert"))
    assert jax.tree.map(lambda leaf: leaf.shape, folded) == jax.tree.map(lambda leaf: leaf.shape, like)
    if row(name).folds == "forth":
        with pytest.raises(NotFoldable, match="cannot be unfolded"):
            method.unfold(folded["backbone"], adapters)
        return
    back = method.unfold(folded["backbone"], adapters)
    assert trees.to_layers(back).keys() == trees.to_layers(backbone).keys()
    for path, leaf in trees.to_layers(back).items():
        np.testing.assert_allclose(leaf, trees.to_layers(backbone)[path], atol=1e-6, err_msg=path)


@EVERYWHERE
def test_dropout_is_the_methods_own_and_off_in_evaluation(name: str, family: str):
    """On a backbone and a head without any."""
    params, model = moved(name, family), fresh(name, family)[0]
    method, quiet = model.method, model.config
    quiet = dataclasses.replace(quiet, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    head = aj.Classification(num_labels=3, dropout=0.0)
    drops = "dropout" in {field.name for field in dataclasses.fields(method)}
    dropping = aj.Model(quiet, dataclasses.replace(method, dropout=0.5) if drops else method, head)
    still = evaluated(name, family)
    np.testing.assert_array_equal(run(dropping, params).logits, still.logits)
    gap = float(abs(run(dropping, params, jax.random.key(0)).hidden - still.hidden).max())
    assert gap > 1e-4 if drops else gap < 1e-5


@pytest.mark.parametrize("name", PARAMETERS("counts"))
def test_parameters_as_published(name: str):
    for config, expected in zip((aj.BertConfig.base(), aj.BertConfig.large()), row(name).counts, strict=True):
        summary = aj.Model(config, row(name).published, THREE).summary(weights.abstract(config))
        assert summary.adapter + summary.backbone_trained == expected


@pytest.mark.parametrize("name", ROWS_BY_NAME)
def test_golden_tree(name: str, repo: Path):
    golden = json.loads((repo / "tests" / "golden" / "method_trees.json").read_text())
    assert shapes(row(name)) == golden[name]


def test_every_method_is_in_the_table():
    assert set(aj.METHODS) == {row.tiny.name for row in ROWS_BY_NAME.values()}


def test_no_row_is_exempted_without_a_reason():
    for name, row in ROWS_BY_NAME.items():
        assert row.folds in ("both", "forth", BETWEEN, BESIDE, FRONT, ASIDE) and all(row.no_gradient.values()), name


def test_one_optax_update_needs_no_frozen_leaf():
    """`aj.freeze` over a tree with holes: the state holds nothing of the frozen part."""
    model, params = fresh("lora")
    trained, _ = parts("lora", params)
    state = aj.freeze(optax.adam(1e-3), model.labels(params)).init(trained)
    assert trees.count({"state": {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}}) < 3 * trees.count(
        trained
    )
