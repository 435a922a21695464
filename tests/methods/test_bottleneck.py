"""The bottleneck family against numpy: what each merge computes, the variations, sizes, and the couplings' inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from adapters_jax.slots import Context
from tests.methods.tiny import TINY

DRAW = np.random.default_rng(0)
Y, RESIDUAL = (DRAW.standard_normal((2, 5, 16)).astype(np.float32) for _ in range(2))
CTX = Context(jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 5), bool), jnp.asarray(RESIDUAL), 0)


def normal(x: np.ndarray, eps: float) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def norm(x: np.ndarray) -> np.ndarray:
    """A LayerNorm of the backbone."""
    return 0.7 * normal(x, 1e-12) + 0.1


def jax_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return 0.7 * centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-12) + 0.1


def dense(p: dict, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def bottleneck(p: dict, x: np.ndarray, act=relu) -> np.ndarray:
    return dense(p["up"], act(dense(p["down"], x)))


def gated(p: dict, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return norm(r + y * (1 + bottleneck(p, r, np.tanh)))


def inner_norm(p: dict, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    seen = normal(y, 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    return norm(r + y + bottleneck(p, seen))


def deep(p: dict, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    inner = swish(dense(p["down"], y))
    for number in range(2):
        inner = swish(dense(p[f"inner_{number}"], inner))
    return norm(r + y + dense(p["up"], inner))


def pfeiffer(p: dict, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return norm(r + y + bottleneck(p, norm(r + y)))


def lin(p: dict, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    z = norm(r + y)
    return z + bottleneck(p, normal(z, 1e-5) * p["norm"]["scale"] + p["norm"]["bias"])


CASES = {
    "serial": (aj.Houlsby(bottleneck=4, activation="relu"), lambda p, y, r: norm(r + y + bottleneck(p, y))),
    "gated": (aj.Houlsby(bottleneck=4, activation="tanh", insertion="gated"), gated),
    "inner norm": (aj.Houlsby(bottleneck=4, activation="relu", inner_norm=True), inner_norm),
    "deep": (aj.Houlsby(bottleneck=4, activation="swish", inner_layers=2), deep),
    "pfeiffer": (aj.Pfeiffer(bottleneck=4), pfeiffer),
    "lin": (aj.Lin(bottleneck=4), lin),
    "parallel": (aj.Parallel(bottleneck=4), lambda p, y, r: norm(r + y + 4 * bottleneck(p, r))),
    "scaled": (aj.ScaledParallel(bottleneck=4), lambda p, y, r: norm(r + y + p["scale"] * bottleneck(p, r))),
    "channels": (
        aj.ScaledParallel(bottleneck=4, channels=True),
        lambda p, y, r: norm(r + y + p["scale"] * bottleneck(p, r)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_merge(name: str):
    method, expected = CASES[name]
    module = method.modules(TINY, 0)["ffn_merge"]
    fresh = module.init(jax.random.key(0), Y, RESIDUAL, jax_norm, CTX)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * DRAW.standard_normal(leaf.shape).astype(np.float32), fresh)
    found = module.apply({"params": params}, Y, RESIDUAL, jax_norm, CTX)
    np.testing.assert_allclose(found, expected(jax.tree.map(np.asarray, params), Y, RESIDUAL), rtol=1e-4, atol=1e-5)


def shapes(method: aj.Method, config: aj.BertConfig = TINY) -> dict[str, tuple[int, ...]]:
    model = aj.Model(config, method, aj.Classification(num_labels=3))
    return {
        path: leaf.shape for path, leaf in trees.flatten(model.abstract(weights.abstract(config))["adapters"]).items()
    }


def test_a_size_for_each_layer_and_layers_left_out():
    sizes = shapes(aj.Pfeiffer(sizes=(4, 0, 8)))
    assert sizes["encoder/0/ffn_merge/down/kernel"] == (1, 16, 4)
    assert sizes["encoder/2/ffn_merge/down/kernel"] == (1, 16, 8)
    assert not any("encoder/1/" in path for path in sizes)
    assert shapes(aj.Pfeiffer(reduction_factor=4.0))["encoder/ffn_merge/down/kernel"] == (3, 16, 4)
    left = shapes(aj.Houlsby(bottleneck=4, layers=(1,)))
    parts = ("down/kernel", "down/bias", "up/kernel", "up/bias")
    assert set(left) == {f"encoder/1/{slot}/{part}" for slot in ("attn_merge", "ffn_merge") for part in parts}


def test_layer_norms_of_left_out_layers_stay_frozen():
    model = aj.Model(TINY, aj.Houlsby(bottleneck=4, layers=(1, 2)), aj.Classification(num_labels=3))
    params = model.init(jax.random.key(0), weights.initialise(jax.random.key(1), TINY))
    trained, _ = trees.split(params, model.labels(params))
    places = {path.split("/")[0:3:2][-1] for path in trees.to_layers({"backbone": trained["backbone"]})}
    assert places == {"1", "2"}


def test_initial_values():
    _, params = _init(aj.Pfeiffer(bottleneck=16))
    assert abs(float(params["encoder"]["ffn_merge"]["down"]["kernel"].std()) - 0.02) < 0.002
    _, params = _init(aj.Parallel(bottleneck=16))
    down = params["encoder"]["ffn_merge"]["down"]["kernel"]
    assert 0.23 < float(abs(down).max()) <= 0.25 and not params["encoder"]["ffn_merge"]["up"]["kernel"].any()
    _, params = _init(aj.Houlsby(bottleneck=16, preset="adapterhub"))
    assert float(abs(params["encoder"]["attn_merge"]["up"]["kernel"]).max()) > 0.04  # not cut off at two deviations


def _init(method: aj.Method) -> tuple[aj.Model, dict]:
    model = aj.Model(TINY, method, aj.Classification(num_labels=3))
    return model, model.init(jax.random.key(0), weights.initialise(jax.random.key(1), TINY))["adapters"]


def test_coupling_and_its_inverse():
    method = aj.Pfeiffer(bottleneck=4, invertible=True)
    _, adapters = _init(method)
    params = testing.perturb(adapters, scale=0.5)
    module = method.modules(TINY, 0)["embed"]
    forward, mask = module.apply({"params": params["embed"]}, jnp.asarray(Y), CTX.mask, CTX)
    f, g = (jax.tree.map(np.asarray, params["embed"][name]) for name in ("f", "g"))
    first = Y[..., :8] + bottleneck(f, Y[..., 8:])
    expected = np.concatenate([first, Y[..., 8:] + bottleneck(g, first)], -1)
    np.testing.assert_allclose(forward, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(method.invert(params, forward), Y, atol=1e-5)
    np.testing.assert_array_equal(mask, CTX.mask)
    plain = aj.Pfeiffer(bottleneck=4)
    assert plain.invert({}, forward) is forward


def test_a_given_size_takes_the_published_ones_place():
    assert aj.Houlsby().bottleneck == 64 and aj.Houlsby(reduction_factor=16.0).bottleneck is None
    assert aj.Pfeiffer().reduction_factor == 16 and aj.Pfeiffer(bottleneck=8).reduction_factor is None
    with pytest.raises(ConfigError, match="one of bottleneck, reduction_factor and sizes, got bottleneck and sizes"):
        aj.Houlsby(bottleneck=8, sizes=(1, 2))
