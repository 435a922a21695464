"""P-tuning: its networks step by step in numpy, fresh values, widths and counts, what is kept, what is refused."""

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from tests.methods import numpy_bert
from tests.methods.tiny import BACKBONE, BATCH, THREE, TINY, run
from tests.methods.tiny import fresh_model as tiny

LENGTH = 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(part, rows, reverse):
    """One step after the other, gates in the order input, forget, cell, output."""
    width = part["state/kernel"].shape[0]
    h, c, out = np.zeros(width), np.zeros(width), [None] * len(rows)
    for place in reversed(range(len(rows))) if reverse else range(len(rows)):
        all_gates = rows[place] @ part["input/kernel"] + part["input/bias"]
        all_gates = all_gates + h @ part["state/kernel"] + part["state/bias"]
        i, f, g, o = (all_gates[n * width : (n + 1) * width] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out[place] = h
    return np.array(out)


def numpy_prompt(adapters, layers, linear):
    """The prompt, by the definition."""
    flat = {path: np.asarray(leaf, float) for path, leaf in trees.flatten(adapters["p_tuning"]).items()}
    x = flat["embedding"]
    for layer in range(layers):
        both = []
        for name in ("forward", "backward"):
            place = f"lstm/{layer}/{name}/"
            part = {path.removeprefix(place): leaf for path, leaf in flat.items() if path.startswith(place)}
            both.append(numpy_lstm(part, x, name == "backward"))
        x = np.concatenate(both, axis=1)
    for number in range(linear):
        x = x @ flat[f"mlp/{number}/kernel"] + flat[f"mlp/{number}/bias"]
        x = x if number == linear - 1 else np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    ("method", "layers", "linear"),
    [
        (aj.PTuning(length=LENGTH), 2, 2),
        (aj.PTuning(length=LENGTH, preset="peft", insertion="encoder"), 2, 2),
        (aj.PTuning(length=LENGTH, hidden=3), 2, 2),
        (aj.PTuning(length=LENGTH, encoder="mlp", hidden=7), 0, 3),
    ],
)
def test_the_definition_and_what_is_kept(method, layers, linear):
    model, params = tiny(method)
    params["adapters"] = testing.perturb(params["adapters"], scale=0.3)
    prompt = numpy_prompt(params["adapters"], layers, linear)
    expected = numpy_bert.forward(BACKBONE, TINY, BATCH, prompt=prompt, place=method.insertion)
    output = run(model, params)
    numpy_bert.assert_tokens_agree(output.hidden, expected, BATCH["mask"], front=LENGTH)

    flat, adapters = method.flattened(params["adapters"], TINY)
    assert (flat.name, [leaf.shape for leaf in jax.tree.leaves(adapters)]) == ("prompt", [(LENGTH, 16)])
    same = run(aj.Model(TINY, flat, THREE), params | {"adapters": adapters})
    np.testing.assert_allclose(same.logits, output.logits, atol=1e-6)


def test_the_tree():
    _, params = tiny(aj.PTuning(length=LENGTH))
    shapes = {path: leaf.shape for path, leaf in trees.flatten({"adapters": params["adapters"]}).items()}
    expected = {"adapters/p_tuning/embedding": (LENGTH, 16)}
    for layer in range(2):
        for direction in ("forward", "backward"):
            place = f"adapters/p_tuning/lstm/{layer}/{direction}"
            expected |= {f"{place}/input/kernel": (16, 32), f"{place}/state/kernel": (8, 32)}
            expected |= {f"{place}/input/bias": (32,), f"{place}/state/bias": (32,)}
    for number in range(2):
        expected |= {f"adapters/p_tuning/mlp/{number}/kernel": (16, 16), f"adapters/p_tuning/mlp/{number}/bias": (16,)}
    assert shapes == expected


def test_fresh_values():
    wide = aj.BertConfig.tiny(hidden_size=64, num_attention_heads=4)
    backbone = weights.initialise(jax.random.key(0), wide)
    network = tiny(aj.PTuning(length=30), config=wide, backbone=backbone)[1]["adapters"]["p_tuning"]
    assert abs(float(network["embedding"].std()) - 1) < 0.05
    leaves = trees.flatten({"lstm": network["lstm"]})
    assert len({np.asarray(leaf).tobytes() for leaf in leaves.values()}) == len(leaves) == 16
    for path, leaf in leaves.items():
        assert 0.9 * 32**-0.5 < float(abs(leaf).max()) <= 32**-0.5, path
    for path, leaf in trees.flatten({"mlp": network["mlp"]}).items():
        assert 0.9 / 8 < float(abs(leaf).max()) <= 1 / 8, path


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (aj.PTuning(), 6_912 + 7_090_176 + 1_181_184),
        # peft: 4 h (d + h) + 8 h in each direction, then 2 h in place of d; MLP (2 h)^2 + 2 h + 2 h d + d.
        (aj.PTuning(preset="peft"), 6_912 + 2 * (4_718_592 + 6_144) + 2 * (7_077_888 + 6_144) + 2_360_832 + 1_180_416),
        (aj.PTuning(encoder="mlp"), 6_912 + 3 * 590_592),
        (aj.PTuning(length=20, encoder="mlp", hidden=128), 20 * 768 + 98_432 + 16_512 + 99_072),
    ],
)
def test_counts_on_bert_base(method, count):
    base = aj.BertConfig.base()
    assert aj.Model(base, method, THREE).summary(weights.abstract(base)).adapter == count


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.PTuning(length=0), "method.length: expected a whole number of at least 1, got 0"),
        (lambda: aj.PTuning(encoder="lstms"), "did you mean 'lstm'"),
        (lambda: aj.PTuning(preset="pet"), "did you mean 'peft'"),
        (lambda: aj.PTuning(hidden=0), "method.hidden: expected a whole number of at least 1, got 0"),
        (lambda: aj.PTuning(read="frist"), "did you mean 'first'"),
        (lambda: aj.Model(TINY, aj.PTuning(length=62), THREE), "method.length: expected at most 61"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(ConfigError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
