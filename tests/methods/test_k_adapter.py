"""K-Adapter: the released equations in numpy, float64, values and gradients; fresh values; counts; what is refused.

The transcription follows microsoft/K-Adapter, fac-adapter.py and examples/run_finetune_TACRED_adapter.py, row by row
and without padding; the BERT layers inside are those of tests/methods/numpy_bert.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods.k_adapter import take_over
from benchmarks import flops
from tests.methods import numpy_bert
from tests.methods.table import SHORT_BASE
from tests.methods.tiny import BACKBONE, BATCH, THREE, TINY, drawn_model, fresh_model, run

TWO = aj.KAdapter(adapters=("factual", "linguistic"), layers=(0, 2), inner=8, inner_heads=2)
CASES = {
    "one": aj.KAdapter(),
    "one narrow": aj.KAdapter(inner=8, inner_layers=1, inner_heads=4),
    "two": TWO,
    "three": dataclasses.replace(TWO, adapters=("a", "b", "c")),
    "add": dataclasses.replace(TWO, combine="add"),
    "skip 2": dataclasses.replace(TWO, layers=(0, 1, 2, 3), skip=2),
    "skip 3": dataclasses.replace(TWO, layers=(0, 1, 3), skip=3),
}


def flat(adapters: dict) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf, np.float64) for path, leaf in trees.flatten(adapters["output"]).items()}


def dense(p: dict, place: str, x):
    return x @ p[f"{place}/kernel"] + p[f"{place}/bias"]


def network(p: dict, name: str, states: list, method: aj.KAdapter):
    """`AdapterModel.forward` of the release."""
    inner = dataclasses.replace(method.transformer(TINY), hidden_dropout_prob=0.0)
    last, kept = np.zeros_like(states[0]), []
    for place, state in enumerate(states):
        fused = state + last
        z = dense(p, f"{name}/{place}/down", fused)
        for number in range(method.inner_layers):
            part = lambda n, number=number: lambda leaf: p[f"{name}/{place}/layers/{number}/{n}/{leaf}"]  # noqa: B023
            z = numpy_bert._layer(z, part, inner, None)
        last = fused + dense(p, f"{name}/{place}/up", z)
        kept.append(last)
        if method.skip >= 1 and len(kept) % method.skip == 0:
            last = last + kept[int(len(kept) / method.skip)]
    return last


def combined(p: dict, method: aj.KAdapter, hidden_states: list) -> list[np.ndarray]:
    """`TACREDModel.forward` of the release up to `task_features`, of each row's tokens."""
    found = []
    for row, mask in enumerate(np.asarray(BATCH["mask"])):
        states = [np.asarray(state, np.float64)[row][mask == 1] for state in hidden_states]
        lm = states[-1]
        read = [states[number] for number in method.states(TINY)]
        said = [network(p, name, read, method) for name in method.adapters]
        if method.combine == "add":
            found.append(lm + sum(said))
            continue
        each = [
            dense(p, f"combine/each/{name}", np.concatenate([lm, a], -1))
            for name, a in zip(method.adapters, said, strict=True)
        ]
        found.append(each[0] if len(each) == 1 else dense(p, "combine/all", np.concatenate(each, -1)))
    return found


def plain_states() -> list:
    """Hidden states of the backbone alone, which tests/test_parity.py compares with torch's."""
    model = aj.Model(TINY, aj.HeadOnly(), THREE)
    params = {"backbone": BACKBONE, "adapters": {}, "head": fresh_model(aj.HeadOnly())[1]["head"]}
    return list(model.apply(params, BATCH, hidden_states=True).hidden_states)


@pytest.mark.parametrize("name", CASES)
def test_the_released_equations(name: str):
    model, params = drawn_model(CASES[name])
    expected = combined(flat(params["adapters"]), CASES[name], plain_states())
    hidden = np.asarray(run(model, params).hidden)
    for ours, theirs, mask in zip(hidden, expected, np.asarray(BATCH["mask"]), strict=True):
        np.testing.assert_allclose(ours[mask == 1], theirs, atol=1e-5, rtol=1e-5)


def test_gradients_of_every_leaf():
    """Against central differences of the float64 transcription, along a random direction of each leaf."""
    method = aj.KAdapter(adapters=("a", "b"), layers=(1, 3), inner=4, inner_layers=1, inner_heads=2)
    model, params = drawn_model(method)
    rng = np.random.default_rng(0)
    wanted = [rng.normal(size=(int(n), 16)) for n in np.asarray(BATCH["mask"]).sum(1)]
    padded = np.zeros((3, 12, 16))
    for row, values in enumerate(wanted):
        padded[row, : len(values)] = values
    states = plain_states()

    def value(p: dict) -> float:
        return sum(float((x * y).sum()) for x, y in zip(combined(p, method, states), wanted, strict=True))

    def loss(adapters: dict):
        return jnp.sum(model.apply(params | {"adapters": adapters}, BATCH).hidden * padded.astype(np.float32))

    found = trees.flatten(jax.jit(jax.grad(loss))(params["adapters"])["output"])
    p, step = flat(params["adapters"]), 1e-5
    assert found.keys() == p.keys()
    for path, leaf in p.items():
        direction = rng.normal(size=leaf.shape)
        direction /= np.linalg.norm(direction)
        there, back = (value(p | {path: leaf + sign * step * direction}) for sign in (1, -1))
        expected = (there - back) / (2 * step)
        assert float((found[path] * direction).sum()) == pytest.approx(expected, rel=2e-4, abs=2e-5), path


def test_padding_changes_nothing():
    """The release lets tokens attend to padding."""
    model, params = drawn_model(TWO)
    row = {name: values[1:2] for name, values in BATCH.items()}
    length = int(row["mask"].sum())
    assert length < row["mask"].shape[1]
    cut = {name: values[:, :length] if values.ndim == 2 else values for name, values in row.items()}
    padded, alone = (jax.jit(model.apply)(params, batch).hidden for batch in (row, cut))
    np.testing.assert_allclose(padded[:, :length], alone, atol=1e-5)


def test_rows_in_front_of_the_text_are_seen():
    """With a prompt the networks read its rows too, and the head reads [CLS] after them."""
    method = aj.compose(aj.Prompt(length=4), aj.KAdapter(inner=8))
    model, params = drawn_model(method)
    output = run(model, params)
    assert output.hidden.shape == (3, 12, 16)
    other = trees.map_paths(lambda path, leaf: leaf[::-1, ::-1] if path.endswith("prompt") else leaf, params)
    assert float(abs(run(model, other).hidden - output.hidden).max()) > 1e-3


def test_defaults_for_any_encoder():
    sizes = lambda config: (aj.KAdapter().states(config), aj.KAdapter().width(config), aj.KAdapter().heads(config))
    assert sizes(aj.BertConfig.large()) == ((0, 12, 23), 768, 12)
    assert sizes(aj.BertConfig.base()) == ((0, 6, 11), 768, 12)
    minilm = aj.BertConfig.base(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    assert sizes(minilm) == ((0, 3, 5), 384, 6)
    assert sizes(aj.BertConfig.tiny()) == ((0, 1), 16, 1)
    assert sizes(aj.BertConfig.tiny(num_hidden_layers=1)) == ((0,), 16, 1)
    assert aj.KAdapter(inner=200).heads(aj.BertConfig.base()) == 2  # 100 wide; 3 do not divide 200


def test_counts_of_the_release():
    """On RoBERTa-large's sizes: three times (787,200 + 14,175,744 + 787,456) in the adapter, the rest combines."""
    large = aj.BertConfig.large()
    adapters = aj.Model(large, aj.KAdapter(), THREE).abstract(weights.abstract(large))["adapters"]["output"]
    assert trees.count(adapters["adapter"]) == 3 * (787_200 + 14_175_744 + 787_456) == 47_251_200
    assert trees.count(adapters["combine"]) == 2 * 1024 * 1024 + 1024
    two = aj.Model(large, aj.KAdapter(adapters=("factual", "linguistic"), train_adapters=False), THREE)
    summary = two.summary(weights.abstract(large))
    assert summary.trained - summary.head == 3 * (2 * 1024 * 1024 + 1024)


def test_fresh_values():
    _, params = fresh_model(aj.KAdapter(inner=64, adapters=("a", "b")))
    p = flat(params["adapters"])
    small = np.concatenate([p[f"a/{place}/{end}/kernel"].ravel() for place in "012" for end in ("down", "up")])
    assert small.std() == pytest.approx(2e-4, rel=0.05)
    assert not any(p[f"a/{place}/{end}/bias"].any() for place in "012" for end in ("down", "up"))
    for name, inputs in (("query", 64), ("ffn_in", 64), ("ffn_out", 256)):
        leaf = p[f"a/1/layers/0/{name}/kernel"]
        assert abs(leaf).max() <= inputs**-0.5 and leaf.std() == pytest.approx((3 * inputs) ** -0.5, rel=0.1)
    assert abs(p["a/1/layers/0/query/bias"]).max() <= 0.125 and p["a/1/layers/0/query/bias"].any()
    assert (p["a/0/layers/1/attn_norm/scale"] == 1).all() and not p["a/0/layers/1/attn_norm/bias"].any()
    assert abs(p["combine/all/kernel"]).max() <= 32**-0.5
    different = ("a/0/down/kernel", "a/1/down/kernel", "b/0/down/kernel", "a/0/up/kernel")
    assert len({p[path].tobytes() for path in different}) == 4
    _, alone = fresh_model(aj.KAdapter(inner=64, adapters=("b",)))
    testing.assert_same(alone["adapters"]["output"]["b"], params["adapters"]["output"]["b"])


def test_adapters_are_independent_of_each_other():
    """What one says does not depend on the other's leaves."""
    model, params = drawn_model(TWO)
    mute = lambda name: lambda path, leaf: jnp.zeros_like(leaf) if path.startswith(f"output/{name}/") else leaf
    muted = {name: trees.map_paths(mute(name), params["adapters"]) for name in TWO.adapters}

    def feature(adapters: dict, of: str) -> jax.Array:
        """What the head reads with the other's rows of the last dense layer at 0."""
        dense = adapters["output"]["combine"]
        kernel = dense["all"]["kernel"]
        half = kernel.at[16:].set(0.0) if of == "factual" else kernel.at[:16].set(0.0)
        cut = dense | {"all": dense["all"] | {"kernel": half}}
        tree = {"output": adapters["output"] | {"combine": cut}}
        return run(model, params | {"adapters": tree}).hidden

    for name, other in (TWO.adapters, TWO.adapters[::-1]):
        np.testing.assert_array_equal(feature(muted[other], name), feature(params["adapters"], name))
        assert float(abs(feature(muted[name], name) - feature(params["adapters"], name)).max()) > 1e-3


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        (TWO, {"factual", "linguistic", "combine"}),
        (dataclasses.replace(TWO, train_adapters=False), {"combine"}),
        (dataclasses.replace(TWO, train_adapters=False, combine="add"), set()),
        (dataclasses.replace(TWO, tune_backbone=True), {"factual", "linguistic", "combine", "backbone"}),
    ],
)
def test_what_is_trained(method: aj.KAdapter, parts: set[str]):
    model, params = fresh_model(method)
    trained = trees.flatten(trees.split(params, model.labels(params))[0])
    found = {path.split("/")[2] if path.startswith("adapters/") else path.split("/")[0] for path in trained}
    assert found == parts | {"head"}
    if method.tune_backbone:
        assert {path for path in trained if path.startswith("backbone/")} == {
            f"backbone/{path}" for path in trees.flatten(BACKBONE)
        }


def step_flops(method: aj.Method) -> float:
    quiet = dataclasses.replace(SHORT_BASE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = aj.Model(quiet, method, aj.Classification(num_labels=3, dropout=0.0), scan_layers=False)
    with jax.numpy_dtype_promotion("standard"):
        return flops.step_flops(model, 2, 32)[0]


@pytest.mark.slow
def test_nothing_is_differentiated_through_a_frozen_encoder():
    """With frozen adapters a step costs the two forward passes and the dense layer's; tuned, a backward pass more."""
    frozen = aj.KAdapter(inner=64, inner_layers=1, dropout=0.0, train_adapters=False)
    forward = step_flops(aj.HeadOnly())
    small = step_flops(frozen)
    assert small < 1.25 * forward
    assert step_flops(dataclasses.replace(frozen, tune_backbone=True)) > 2.5 * forward


def test_another_models_network_is_taken_over():
    method = dataclasses.replace(TWO, train_adapters=False)
    _, params = fresh_model(method)
    one = dataclasses.replace(TWO, adapters=("adapter",))
    _, other = drawn_model(one)
    taken = take_over(method, TINY, params["adapters"], "linguistic", one, other["adapters"])
    testing.assert_same(taken["output"]["linguistic"], other["adapters"]["output"]["adapter"])
    rest = {name: tree for name, tree in taken["output"].items() if name != "linguistic"}
    testing.assert_same(rest, {name: params["adapters"]["output"][name] for name in rest})
    _, both = drawn_model(TWO)
    taken = take_over(method, TINY, params["adapters"], "factual", TWO, both["adapters"])
    testing.assert_same(taken["output"]["factual"], both["adapters"]["output"]["factual"])


@pytest.mark.parametrize(
    ("of", "match"),
    [
        (aj.Houlsby(), "adapter third: expected one that method k_adapter trained, got one of houlsby"),
        (dataclasses.replace(TWO, tune_backbone=True), "adapter third: .* got one that tuned the backbone"),
        (TWO, "adapter third: expected it among the adapters there, got factual, linguistic"),
        (
            dataclasses.replace(TWO, adapters=("x",), layers=(0, 1)),
            r"adapter third: expected layers 0,2, as the method has, got 0,1; give --method.layers=0,1",
        ),
        (dataclasses.replace(TWO, adapters=("x",), inner=6), "expected inner 8, as the method has, got 6"),
        (dataclasses.replace(TWO, adapters=("x",), inner_heads=4), "give --method.inner-heads=4"),
        (dataclasses.replace(TWO, adapters=("x",), skip=2), "expected skip 0"),
    ],
)
def test_what_does_not_fit_is_not_taken_over(of: aj.Method, match: str):
    method = dataclasses.replace(TWO, adapters=("third",))
    with pytest.raises(AdapterError, match=match):
        take_over(method, TINY, {"output": {}}, "third", of, {})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.KAdapter(adapters=()), "method.adapters: expected at least one name"),
        (lambda: aj.KAdapter(adapters=("a", "a")), "method.adapters: expected at least one name, each once"),
        (lambda: aj.KAdapter(adapters=("a/b",)), "method.adapters: expected names of letters.*got 'a/b'"),
        (lambda: aj.KAdapter(adapters=("combine",)), "got 'combine'"),
        (lambda: aj.KAdapter(adapters=("encoder",)), "got 'encoder'"),
        (lambda: aj.KAdapter(inner=0), "method.inner: expected a whole number of at least 1, got 0"),
        (lambda: aj.KAdapter(inner_layers=0), "method.inner_layers: expected a whole number"),
        (lambda: aj.KAdapter(combine="sum"), "method.combine: unknown combine 'sum': known are concat, add"),
        (lambda: aj.KAdapter(dropout=1.0), "method.dropout: expected a rate"),
        (lambda: fresh_model(aj.KAdapter(layers=(0, 4))), r"method.layers: expected some of 0 to 3, ascending"),
        (lambda: fresh_model(aj.KAdapter(layers=(2, 1))), "method.layers: .*ascending, got .2, 1."),
        (lambda: fresh_model(aj.KAdapter(layers=())), "method.layers: expected some of 0 to 3"),
        (lambda: fresh_model(aj.KAdapter(inner_heads=3)), "method.inner_heads: expected a divisor of the width 16"),
        (
            lambda: fresh_model(aj.KAdapter(skip=1)),
            "method.skip: expected 0, or 2 to the 3 states that are read, got 1",
        ),
        (lambda: fresh_model(aj.KAdapter(skip=6)), "method.skip: expected 0, or 2 to the 3"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(ConfigError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
