"""A model as an nnx module: the same bits there and back, the same answers, gradients of what is trained alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.errors import AdapterError
from adapters_jax.interop.nnx import Adapter, Frozen, Head, from_nnx, to_nnx
from tests.interop.drawn import drawn

CASES = {
    "houlsby": aj.Houlsby(bottleneck=4),
    "head": aj.HeadOnly(),
    "top": aj.TopN(top=1),
    "frozen": aj.compose(aj.Frozen(of=aj.LoRA(rank=2)), aj.BitFit()),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str, tiny: aj.Backbone):
    model, params = drawn(tiny, CASES[name])
    module = to_nnx(model, params)
    kinds = {"frozen": Frozen, "adapter": Adapter, "head": Head}
    labels = trees.flatten(model.labels(params))
    assert {path: type(leaf) for path, leaf in trees.flatten(module.params).items()} == {
        path: kinds[label] for path, label in labels.items()
    }
    again, found = from_nnx(nnx.merge(*nnx.split(module)))
    assert again == model
    testing.assert_same(found, params)
    assert jax.tree.structure(found) == jax.tree.structure(params)


def test_a_quantised_backbone_stays_one(tiny: aj.Backbone):
    small = aj.load_backbone(str(tiny.folder), quantize="int8")
    model, params = drawn(tiny, aj.LoRA(rank=2))
    params = params | {"backbone": small.params}
    testing.assert_same(from_nnx(nnx.merge(*nnx.split(to_nnx(model, params))))[1], params)


def test_states_go_their_own_ways(tiny: aj.Backbone):
    model, params = drawn(tiny, CASES["houlsby"])
    graph, adapters, head, frozen = nnx.split(to_nnx(model, params), Adapter, Head, Frozen)
    pure = nnx.to_pure_dict(adapters)
    flat = trees.flatten(params)
    trained = [path for path, label in trees.flatten(model.labels(params)).items() if label == "adapter"]
    assert sum(leaf.size for leaf in jax.tree.leaves(pure)) == sum(flat[path].size for path in trained)
    zeros = jax.tree.map(jnp.zeros_like, adapters)
    _, found = from_nnx(nnx.merge(graph, zeros, head, frozen))
    assert all(not np.any(trees.flatten(found)[path]) for path in trained)
    testing.assert_same(found["head"], params["head"])
    nnx.replace_by_pure_dict(zeros, pure)
    testing.assert_same(from_nnx(nnx.merge(graph, zeros, head, frozen))[1], params)


def test_jit_grad_and_an_optimiser(tmp_path: Path):
    small = testing.tiny_backbone(tmp_path / "small", aj.BertConfig.tiny(num_hidden_layers=1))
    model, params = drawn(small, CASES["houlsby"])
    module, batch = to_nnx(model, params), testing.fake_batch(small.config)
    np.testing.assert_array_equal(
        nnx.jit(lambda m, b: m(b).logits)(module, batch), jax.jit(model.apply)(params, batch).logits
    )

    def loss(m):
        total, weight = m.loss(batch)
        return total / weight

    found = nnx.jit(lambda m: nnx.grad(loss, argnums=nnx.DiffState(0, Adapter))(m))(module)
    labels = model.labels(params)
    trained, frozen = aj.split(jax.tree.map(jnp.asarray, params), labels)

    def plain(part):
        total, weight = model.loss(aj.join(part, frozen), batch)
        return total / weight

    expected = trees.flatten(jax.jit(jax.grad(plain))(trained))
    wanted = {path for path, label in trees.flatten(labels).items() if label == "adapter"}
    gradients = trees.flatten(nnx.to_pure_dict(found)["params"])
    assert set(gradients) == wanted
    for path, leaf in gradients.items():
        np.testing.assert_allclose(leaf, expected[path], atol=1e-6, err_msg=path)

    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(m, o):
        o.update(m, nnx.grad(loss, argnums=nnx.DiffState(0, nnx.Param))(m))

    step(module, optimizer)
    _, after = from_nnx(module)
    for part in ("adapters", "head", "backbone"):
        assert trees.diff(after[part], params[part])
    moved = trees.diff(after["backbone"], params["backbone"])
    assert all(model.method.trainable(f"backbone/{path}", small.config) for path in moved)


def test_another_module_is_refused():
    with pytest.raises(AdapterError, match="expected a module of to_nnx, got Linear"):
        from_nnx(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
