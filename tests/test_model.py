"""The model: parameter counts of the papers, identity at initialisation, scan against loop, what is differentiated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights
from adapters_jax.errors import AdaptersJaxError, ConfigError
from adapters_jax.methods.base import Method, is_layer_norm

TINY = aj.BertConfig.tiny(num_hidden_layers=3)
THREE = aj.Classification(num_labels=3)
BATCH = testing.fake_batch(TINY)


def tiny(method=None, head=THREE, pooler=True, **fields):
    model = aj.Model(TINY, method or aj.Houlsby(bottleneck=4), head, **fields)
    return model, model.init(jax.random.key(0), weights.initialise(jax.random.key(1), TINY, pooler))


def test_houlsby_counts_on_bert_base():
    """methods of Houlsby et al. (2019) in the released form: 24 adapters of 99,136, 25 LayerNorms of 1,536."""
    base = aj.BertConfig.base()
    summary = aj.Model(base, aj.Houlsby(bottleneck=64), THREE).summary(weights.abstract(base))
    assert summary.adapter == 2_379_264 == 24 * 99_136
    assert summary.backbone_trained == 38_400
    assert summary.head == 768 * 3 + 3
    assert summary.trained == 2_379_264 + 38_400 + 2_307
    assert summary.backbone == 109_482_240
    assert "= 2.2% of the backbone's 109,482,240" in str(summary)


def test_houlsby_counts_on_bert_large():
    large = aj.BertConfig.large()
    summary = aj.Model(large, aj.Houlsby(bottleneck=64), THREE).summary(weights.abstract(large))
    assert (summary.adapter, summary.adapter + summary.backbone_trained) == (6_343_680, 6_444_032)


def test_baselines_count_all_and_nothing():
    base = aj.BertConfig.base()
    full = aj.Model(base, aj.Full(), THREE).summary(weights.abstract(base))
    head = aj.Model(base, aj.HeadOnly(), THREE).summary(weights.abstract(base))
    assert (full.backbone_trained, full.share) == (109_482_240, 1.0)
    assert (head.trained, head.share) == (2_307, 0.0)


def test_golden_tree():
    _, params = tiny(aj.Houlsby(bottleneck=4))
    shapes = {path: leaf.shape for path, leaf in trees.flatten({"adapters": params["adapters"]}).items()}
    one = {"down/kernel": (3, 16, 4), "down/bias": (3, 4), "up/kernel": (3, 4, 16), "up/bias": (3, 16)}
    assert shapes == {f"adapters/encoder/{s}/{n}": v for s in ("attn_merge", "ffn_merge") for n, v in one.items()}


def test_layers_start_differently_and_as_the_preset_says():
    _, params = tiny(aj.Houlsby(bottleneck=16))
    kernels = params["adapters"]["encoder"]["attn_merge"]["down"]["kernel"]
    assert np.any(kernels[0] != kernels[1])
    assert abs(float(kernels.std()) / 1e-3 - 0.88) < 0.1 and float(abs(kernels).max()) <= 2e-3
    _, params = tiny(aj.Houlsby(bottleneck=16, preset="paper"))
    assert abs(float(params["adapters"]["encoder"]["attn_merge"]["down"]["kernel"].std()) / 1e-2 - 0.88) < 0.1


def test_nearly_the_plain_backbone_at_initialisation():
    model, params = tiny()
    plain, bare = tiny(aj.HeadOnly())
    ours, theirs = model.apply(params, BATCH), plain.apply(bare, BATCH)
    assert 0 < float(abs(ours.hidden - theirs.hidden).max()) < 1e-3
    exact, params = tiny(aj.Houlsby(bottleneck=4, init_std=0.0))
    np.testing.assert_allclose(exact.apply(params, BATCH).hidden, theirs.hidden, atol=1e-6)


@pytest.mark.parametrize("key", [pytest.param(None, marks=pytest.mark.slow), 5])
def test_scan_equals_loop_and_remat_changes_nothing(key):
    model, params = tiny()
    key = None if key is None else jax.random.key(key)

    def run(model):
        def loss(adapters):
            return model.apply(params | {"adapters": adapters}, BATCH, key).logits.sum()

        return jax.jit(jax.value_and_grad(loss))(testing.perturb(params["adapters"]))

    value, grads = run(model)
    for changes in ({"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}):
        other, others = run(dataclasses.replace(model, **changes))
        np.testing.assert_allclose(other, value, rtol=1e-5)
        worst = jax.tree.map(testing.relative_error, others, grads)
        assert max(jax.tree.leaves(worst)) < 1e-5, changes


def test_dropout_follows_its_key_and_is_off_without_one():
    model, params = tiny()
    run = lambda key: np.asarray(model.apply(params, BATCH, key).logits)
    assert np.any(run(jax.random.key(1)) != run(jax.random.key(2)))
    np.testing.assert_array_equal(run(jax.random.key(1)), run(jax.random.key(1)))
    np.testing.assert_array_equal(run(None), run(None))
    quiet = dataclasses.replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still = dataclasses.replace(model, config=quiet, head=aj.Classification(num_labels=3, dropout=0.0))
    np.testing.assert_allclose(still.apply(params, BATCH, jax.random.key(1)).logits, run(None), atol=1e-6)


def test_bottleneck_dropout_acts_in_training_alone():
    plain, params = tiny(aj.Houlsby(bottleneck=4))
    params = params | {"adapters": testing.perturb(params["adapters"], scale=0.5)}
    dropping = dataclasses.replace(plain, method=aj.Houlsby(bottleneck=4, dropout=0.5))
    np.testing.assert_array_equal(plain.apply(params, BATCH).logits, dropping.apply(params, BATCH).logits)
    key = jax.random.key(0)
    assert np.any(plain.apply(params, BATCH, key).logits != dropping.apply(params, BATCH, key).logits)


def test_padding_and_default_fields_do_not_matter():
    model, params = tiny()
    wide = {name: jnp.pad(v, ((0, 0), (0, 5))) for name, v in BATCH.items() if v.ndim == 2}
    wide["input_ids"] = wide["input_ids"].at[:, -5:].set(7)
    np.testing.assert_allclose(model.apply(params, wide).logits, model.apply(params, BATCH).logits, atol=1e-6)
    ids = jnp.full((2, 6), 9, jnp.int32)
    full = {"input_ids": ids, "token_type_ids": jnp.zeros_like(ids), "mask": jnp.ones((2, 6), bool)}
    np.testing.assert_array_equal(model.apply(params, {"input_ids": ids}).logits, model.apply(params, full).logits)


def test_hidden_states_are_all_layers():
    model, params = tiny()
    output = model.apply(params, BATCH, hidden_states=True)
    assert len(output.hidden_states) == 4
    np.testing.assert_array_equal(output.hidden_states[-1], output.hidden)
    assert model.apply(params, BATCH).hidden_states == ()


def test_bfloat16_stays_near_float32():
    model, params = tiny()
    low = dataclasses.replace(model, dtype="bfloat16").apply(params, BATCH)
    assert low.hidden.dtype == jnp.bfloat16 and low.logits.dtype == jnp.float32
    assert testing.relative_error(low.hidden.astype(jnp.float32), model.apply(params, BATCH).hidden) < 0.03


def test_trained_leaves_are_float32_over_a_bfloat16_backbone():
    model = aj.Model(TINY, aj.Houlsby(bottleneck=4), THREE)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights.initialise(jax.random.key(1), TINY))
    params = model.init(jax.random.key(0), half)
    trained, frozen = trees.split(params, model.labels(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}


def test_a_missing_pooler_comes_with_the_head():
    model, params = tiny(pooler=False)
    assert set(params["head"]) == {"pooler", "classifier"} and "pooler" not in params["backbone"]
    assert model.labels(params)["head"]["pooler"]["kernel"] == "head"
    assert model.apply(params, BATCH).pooled.shape == (4, 16)


def test_abstract_has_the_shapes_of_init():
    model, params = tiny()
    shapes = model.abstract(weights.abstract(TINY))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )


@dataclasses.dataclass(frozen=True)
class TopLayerNorms(Method):
    """A third party's method: LayerNorms of the last layer."""

    name = "top_layer_norms"

    @property
    def recipe(self):
        return aj.Recipe(lr=1e-3, epochs=1, source="this test")

    def modules(self, config, segment):
        return {}

    def trainable(self, path, config):
        return is_layer_norm(path) and path.startswith("backbone/encoder/2/")


def test_layers_trained_in_part_are_cut_off_and_nothing_else_changes():
    model, params = tiny(TopLayerNorms())
    assert set(params["backbone"]["encoder"]) == {"0", "2"}
    trained, _ = trees.split(params, model.labels(params))
    assert trees.count(trained) == 4 * 16 + 16 * 3 + 3
    assert all("/2/" in path for path in trees.flatten(trained["backbone"], "/"))
    plain, bare = tiny(aj.HeadOnly())
    np.testing.assert_allclose(model.apply(params, BATCH).logits, plain.apply(bare, BATCH).logits, atol=1e-6)
    assert not trees.diff(params["backbone"], bare["backbone"])


@dataclasses.dataclass(frozen=True)
class UpperHoulsby(aj.Houlsby):
    """Houlsby adapters in layer 1 and above: two segments."""

    def segments(self, config):
        return (0, 1)

    def modules(self, config, segment):
        return super().modules(config, segment) if segment else {}


def test_segments_carry_their_own_modules():
    model, params = tiny(UpperHoulsby(bottleneck=4))
    assert list(params["adapters"]["encoder"]) == ["1"]
    assert params["adapters"]["encoder"]["1"]["attn_merge"]["up"]["bias"].shape == (2, 16)
    whole, all_layers = tiny(aj.Houlsby(bottleneck=4))
    ours = trees.to_layers(params["adapters"])
    theirs = trees.to_layers(all_layers["adapters"])
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-6, err_msg=path)
    zeroed = jax.tree.map(lambda leaf: leaf.at[0].set(0), all_layers["adapters"])
    expected = whole.apply(all_layers | {"adapters": zeroed}, BATCH)
    np.testing.assert_allclose(model.apply(params, BATCH).hidden, expected.hidden, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Houlsby(bottleneck=0), "bottleneck: expected a whole number of at least 1, got 0"),
        (lambda: aj.Houlsby(activation="gelo"), "did you mean 'gelu'"),
        (lambda: aj.Houlsby(preset="papers"), "did you mean 'paper'"),
        (lambda: aj.Houlsby(dropout=1.0), r"dropout: expected a rate in \[0, 1\), got 1.0"),
        (lambda: aj.Houlsby(init_std=float("nan")), "init_std"),
        (lambda: aj.Classification(num_labels=1), "at least 2 classes"),
        (lambda: aj.Classification(num_labels=2, labels=("a", "b", "c")), "each with a name"),
        (lambda: aj.Model(TINY, aj.Houlsby(), THREE, dtype="float16"), "unknown dtype 'float16'"),
        (lambda: aj.Model(TINY, aj.Houlsby(), THREE, remat="some"), "unknown remat"),
        (lambda: aj.BertConfig(hidden_size=10), "not a multiple of 12"),
        (lambda: aj.BertConfig(hidden_act="swish"), "hidden_act must be one of"),
        (lambda: aj.BertConfig.from_dict({"model_type": "albert"}), "must be 'bert', .*, got 'albert'"),
        (lambda: aj.BertConfig.from_dict({"position_embedding_type": "relative_key"}), "not supported"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(AdaptersJaxError, match=match) as error:
        make()
    assert "\n" not in str(error.value)


def test_errors_are_config_errors():
    with pytest.raises(ConfigError):
        aj.Houlsby(bottleneck=-3)
