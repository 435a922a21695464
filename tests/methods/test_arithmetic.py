"""Arithmetic on adapters: laws that hold to the bit or within rounding, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods import arithmetic
from tests.methods.tiny import BACKBONE, THREE, TINY, drawn, run

ONE = aj.LoRA(slots=("query", "ffn_in"), ranks=(2, 4), alphas=(1.0, 8.0))
TWO = aj.LoRA(slots=("query", "ffn_in"), rank=4, alpha=6.0, rank_stabilised=True)


HEAD = drawn(aj.Model(TINY, aj.HeadOnly(), THREE).abstract(BACKBONE)["head"], 9)


def hidden(method, adapters, backbone=BACKBONE):
    params = {"backbone": backbone, "adapters": adapters, "head": HEAD}
    return np.asarray(run(aj.Model(TINY, method, THREE), params).hidden)


def leaves(method, seed):
    return drawn(aj.Model(TINY, method, THREE).abstract(BACKBONE)["adapters"], seed)


def moved(*changes):
    """The plain backbone with W + dW1 + dW2 + ..., each dW = scale A B, in numpy."""
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in trees.to_layers(BACKBONE).items()}
    for adapters, scales in changes:
        own = {path: np.asarray(leaf, np.float64) for path, leaf in trees.to_layers(adapters).items()}
        for place in {path.rsplit("/", 1)[0] for path in own}:
            flat[f"{place}/kernel"] += scales[place.split("/")[-1]] * own[f"{place}/a"] @ own[f"{place}/b"]
    return trees.from_layers({path: jnp.asarray(leaf, jnp.float32) for path, leaf in flat.items()}, BACKBONE)


ONES, TWOS = {"query": 0.5, "ffn_in": 2.0}, {"query": 3.0, "ffn_in": 3.0}
A, B = leaves(ONE, 1), leaves(TWO, 2)
LIKE = [leaves(aj.Houlsby(bottleneck=4), seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("weights", [None, (1.0, 1.0, 1.0), (0.2, 0.3, 0.5), (3.0, -1.0, 4.0)])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_equal_adapters_average_to_themselves_to_the_bit(weights, times):
    """Not to a third of themselves, nor to something next to them."""
    testing.assert_same(arithmetic.average([LIKE[0]] * times, weights and weights[:times]), LIKE[0])


def test_average_is_the_weighted_mean():
    plain = arithmetic.average(LIKE)
    weighted = arithmetic.average(LIKE, (1.0, 2.0, 5.0))
    for path, leaf in trees.flatten(plain).items():
        a, b, c = (np.asarray(trees.flatten(tree)[path], np.float64) for tree in LIKE)
        np.testing.assert_allclose(leaf, (a + b + c) / 3, atol=1e-7)
        np.testing.assert_allclose(trees.flatten(weighted)[path], (a + 2 * b + 5 * c) / 8, atol=1e-7)


def test_averages_follow_order_and_weights():
    a, b, c = LIKE
    testing.assert_same(arithmetic.average(LIKE, (0.0, 0.0, 7.0)), c)
    for order in ((b, a, c), (c, b, a)):
        for x, y in zip(
            jax.tree.leaves(arithmetic.average(order)), jax.tree.leaves(arithmetic.average(LIKE)), strict=True
        ):
            np.testing.assert_allclose(x, y, atol=1e-7)


def test_interpolation():
    a, b, _ = LIKE
    testing.assert_same(arithmetic.interpolate(a, b, 0.0), a)
    testing.assert_same(arithmetic.interpolate(a, b, 1.0), b)
    testing.assert_same(arithmetic.interpolate(a, b, 0.5), arithmetic.average((a, b)))
    testing.assert_same(arithmetic.interpolate(a, a, 0.3), a)
    for t in (0.25, 0.75, 1.5):
        found = jax.tree.leaves(arithmetic.interpolate(a, b, t))
        for x, y, z in zip(found, jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, (1 - t) * np.asarray(y) + t * np.asarray(z), atol=1e-6)


def test_arithmetic_keeps_types():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), LIKE[0])
    assert {leaf.dtype for leaf in jax.tree.leaves(arithmetic.average((half, half)))} == {jnp.dtype(jnp.bfloat16)}
    _, tree = arithmetic.scale((ONE, A), 0.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}


def test_a_sum_has_both_changes_on_the_layers_own_input():
    """W + dW1 + dW2: the second change does not see the first one's product."""
    method, tree = arithmetic.add((ONE, A), (TWO, B))
    assert (method.ranks, method.rank_stabilised) == ((6, 8), False)
    assert method.sizes() == {"query": (6, 1.0), "ffn_in": (8, 1.0)}
    expected = hidden(aj.HeadOnly(), {}, moved((A, ONES), (B, TWOS)))
    assert np.abs(expected - hidden(aj.HeadOnly(), {}, moved((A, ONES)))).max() > 0.05
    np.testing.assert_allclose(hidden(method, tree), expected, atol=2e-5)


def test_equal_ranks_stay_one_rank():
    method, _ = arithmetic.add((TWO, B), (TWO, B))
    assert (method.rank, method.alpha, method.ranks, method.alphas) == (8, 8.0, (), ())


def test_sums_commute_and_associate():
    parts = (ONE, A), (TWO, B), (ONE, leaves(ONE, 3))
    sums = (
        arithmetic.add(arithmetic.add(parts[0], parts[1]), parts[2]),
        arithmetic.add(parts[2], arithmetic.add(parts[1], parts[0])),
    )
    np.testing.assert_allclose(hidden(*sums[0]), hidden(*sums[1]), atol=2e-5)


def test_slots_are_matched_by_name():
    turned = aj.LoRA(slots=("ffn_in", "query"), ranks=(4, 2), alphas=(8.0, 1.0))
    method, tree = arithmetic.add((TWO, B), (turned, A))
    assert method.slots == TWO.slots
    np.testing.assert_allclose(hidden(method, tree), hidden(aj.HeadOnly(), {}, moved((A, ONES), (B, TWOS))), atol=2e-5)


def test_a_change_and_its_negative_leave_the_plain_backbone():
    bare = hidden(aj.HeadOnly(), {})
    assert np.abs(hidden(ONE, A) - bare).max() > 0.05
    np.testing.assert_allclose(hidden(*arithmetic.add((ONE, A), arithmetic.negate((ONE, A)))), bare, atol=1e-6)
    testing.assert_same(arithmetic.negate(arithmetic.negate((ONE, A)))[1], A)


def test_scaling():
    testing.assert_same(arithmetic.scale((ONE, A), 1.0)[1], A)
    np.testing.assert_allclose(hidden(*arithmetic.scale((ONE, A), 0.0)), hidden(aj.HeadOnly(), {}), atol=1e-6)
    twice = arithmetic.scale((ONE, A), 2.0)
    np.testing.assert_allclose(hidden(*twice), hidden(*arithmetic.add((ONE, A), (ONE, A))), atol=2e-5)
    mean = arithmetic.add(arithmetic.scale((ONE, A), 0.5), arithmetic.scale((TWO, B), 0.5))
    halves = {slot: value / 2 for slot, value in ONES.items()}, {slot: value / 2 for slot, value in TWOS.items()}
    expected = hidden(aj.HeadOnly(), {}, moved((A, halves[0]), (B, halves[1])))
    np.testing.assert_allclose(hidden(*mean), expected, atol=2e-5)


def test_sums_on_some_layers():
    method = aj.LoRA(rank=2, layers=(0, 2))
    a, b = leaves(method, 1), leaves(method, 2)
    scales = {"query": 8.0, "value": 8.0}
    expected = hidden(aj.HeadOnly(), {}, moved((a, scales), (b, scales)))
    np.testing.assert_allclose(hidden(*arithmetic.add((method, a), (method, b))), expected, atol=5e-5)


def test_a_sum_folds_as_its_parts_do():
    method, tree = arithmetic.add((ONE, A), (TWO, B))
    once, twice = method.fold(BACKBONE, tree), TWO.fold(ONE.fold(BACKBONE, A), B)
    for path, leaf in trees.flatten(once).items():
        np.testing.assert_allclose(leaf, trees.flatten(twice)[path], atol=1e-6, err_msg=path)


OTHER = {
    "a leaf that is missing": ({"encoder": {"key": LIKE[0]["encoder"]["attn_merge"]}}, "encoder/attn_merge/.*nothing"),
    "another shape": (leaves(aj.Houlsby(bottleneck=5), 1), r"encoder/attn_merge/\S+: float32\[3 .*4.*\] and .*5"),
    "another type": (
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), LIKE[0]),
        r"encoder/attn_merge/\S+: float32.* and bfloat16",
    ),
}


@pytest.mark.parametrize("other, message", OTHER.values(), ids=OTHER)
def test_unlike_trees_are_refused_by_the_leaf(other, message):
    for act in (lambda: arithmetic.average((LIKE[0], other)), lambda: arithmetic.interpolate(LIKE[0], other, 0.5)):
        with pytest.raises(AdapterError, match=f"adapters are unlike at {message}"):
            act()


@pytest.mark.parametrize("count, weights", [(0, None), (2, (1.0,)), (2, (1.0, -1.0)), (2, (1.0, float("nan")))])
def test_weights_that_give_no_mean_are_refused(count, weights):
    with pytest.raises(AdapterError, match="average: expected trees, and a finite weight for each") as error:
        arithmetic.average(LIKE[:count], weights)
    assert "\n" not in str(error.value)


def test_changes_of_other_layers_or_slots_are_not_added():
    other = aj.LoRA(slots=("query", "value"), rank=4)
    with pytest.raises(AdapterError, match=r"unlike at encoder/ffn_in/a: float32\[3 16 r\] and nothing"):
        arithmetic.add((ONE, A), (other, leaves(other, 1)))
    some = aj.LoRA(slots=("query", "ffn_in"), rank=4, layers=(1, 2))
    with pytest.raises(AdapterError, match="unlike at encoder/ffn_in/a: .* and nothing"):
        arithmetic.add((ONE, A), (some, leaves(some, 1)))


def test_dora_is_no_sum():
    dora = aj.LoRA(dora=True)
    change = (dora, leaves(dora, 1))
    for act in (lambda: arithmetic.add(change, change), lambda: arithmetic.negate(change)):
        with pytest.raises(
            AdapterError, match="expected LoRA, whose change of the weights is a sum, got lora with dora"
        ):
            act()


def test_a_sum_wider_than_the_backbone_is_refused_by_the_model():
    wide = aj.LoRA(rank=12)
    change = (wide, leaves(wide, 1))
    method, _ = arithmetic.add(change, change)
    with pytest.raises(ConfigError, match="method.rank: expected at most 16, the width at query, got 24"):
        aj.Model(TINY, method, THREE)


def test_the_composition_of_two_is_their_sum():
    """Nested projections: the same function, without a new method."""
    both = aj.compose(ONE, TWO)
    names = list(both.by_name)
    found = hidden(both, {names[0]: A, names[1]: B})
    np.testing.assert_allclose(found, hidden(*arithmetic.add((ONE, A), (TWO, B))), atol=2e-5)
