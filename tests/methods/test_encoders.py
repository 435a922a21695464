"""Every method on a small encoder of each family: where it starts, what gets a gradient, what its folder brings back.

BERT itself, multilingual or not, is test_conformance.py's, which runs some of its tests on other families too.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import quant, weights
from adapters_jax.bert.backbone import Backbone
from adapters_jax.bert.families import SIZES
from tests.methods.encoders import CONFIGS
from tests.methods.table import ROWS_BY_NAME
from tests.methods.tiny import TINY

FAST = {("electra", "houlsby"), ("electra", "prompt"), ("roberta", "prefix"), ("distilbert", "lora")}
"""The places where a family's own parts and a method's meet; the rest is slow, for the number of compilations."""
BATCH = testing.fake_batch(TINY, rows=3)
THREE = aj.Classification(num_labels=3)
NAMES = [*aj.METHODS, "prompt encoder", "prompt ensemble", "pfeiffer invertible", "p_tuning mlp", "dora nf4"]


def all_pairs() -> list:
    pairs = [(family, name) for family in CONFIGS for name in NAMES]
    return [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in pairs]


@functools.cache
def weights_of(family: str, quantize: str | None) -> dict:
    config = CONFIGS[family]
    drawn = testing.perturb(weights.initialise(jax.random.key(1), config, pooler=False), scale=0.02)
    return drawn if quantize is None else quant.quantise(drawn, quantize)[0]


@functools.cache
def plain(family: str, quantize: str | None) -> np.ndarray:
    """Hidden states without a method."""
    model = aj.Model(CONFIGS[family], aj.HeadOnly(), aj.NoHead())
    params = model.init(jax.random.key(0), weights_of(family, quantize))
    return np.asarray(jax.jit(model.apply)(params, BATCH).hidden)


def moved(tree: dict) -> dict:
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.05 * draw.standard_normal(leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize(("family", "name"), all_pairs())
def test_a_method_on_an_encoder(family: str, name: str, tmp_path: Path):
    row, config = ROWS_BY_NAME[name], CONFIGS[family]
    backbone = Backbone(config, weights_of(family, row.quantize), "0" * 64, family)
    model = aj.Model(config, row.tiny, THREE)
    params = model.init(jax.random.key(0), backbone.params)
    assert "pooler" in params["head"] and "pooler" not in params["backbone"]
    trained, frozen = trees.split(params, model.labels(params))

    def loss(trained: dict, frozen: dict) -> tuple:
        params = trees.join(trained, frozen)
        total, weight = model.loss(params, BATCH)
        return total / weight, model.apply(params, BATCH).hidden

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, hidden), _ = both(trained, frozen)
    gap = float(abs(hidden - plain(family, row.quantize)).max())
    assert gap > 1e-3 if row.start is None else gap <= max(row.start, 1e-6)

    shifted = moved(trained)
    (value, hidden), gradients = both(shifted, frozen)
    assert np.isfinite(value) and np.isfinite(hidden).all()
    exempt = tuple(row.no_gradient) or ("//",)
    for path, gradient in trees.to_layers(gradients).items():
        assert np.isfinite(gradient).all(), path
        assert path.endswith(exempt) or np.any(np.asarray(gradient) != 0), path

    params = trees.join(shifted, frozen)
    aj.save_adapter(tmp_path / "adapter", model, params, backbone)
    again, loaded = aj.load_adapter(tmp_path / "adapter", backbone)
    assert again == model
    testing.assert_same(loaded, params)


def test_rows_in_front_are_as_wide_as_what_they_stand_before():
    """ELECTRA's embeddings are narrower than the model: 8 and 16."""
    backbone = weights_of("electra", None)
    rows = lambda method: aj.Model(CONFIGS["electra"], method, THREE).init(jax.random.key(0), backbone)["adapters"]
    shape = lambda **options: rows(aj.Prompt(length=5, **options))["embed"]["prompt"].shape
    assert shape() == shape(init="uniform") == (5, 8)
    assert shape(insertion="encoder") == shape(insertion="encoder", init="uniform") == (5, 16)
    assert rows(aj.PTuning(length=5))["p_tuning"]["embedding"].shape == (5, 8)
    words = np.asarray(backbone["embeddings"]["words"])
    project = jax.tree.map(np.asarray, backbone["embeddings"]["project"])
    found = np.asarray(rows(aj.Prompt(length=5, insertion="encoder"))["embed"]["prompt"])
    projected = words @ project["kernel"] + project["bias"]
    for row in found:
        assert abs(projected - row).sum(1).min() < 1e-4


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_a_prompt_takes_the_positions_before_the_text(family: str):
    """A prompt of words at "words" is a text with these words in front, from the family's own first position on."""
    config, backbone = CONFIGS[family], weights_of(family, None)
    model = aj.Model(config, aj.Prompt(length=4), aj.NoHead())
    ids = jnp.asarray(np.random.default_rng(0).integers(5, 128, (2, 9)), jnp.int32)
    prompt = jnp.asarray(backbone["embeddings"]["words"])[jnp.array([7, 8, 9, 10])]
    found = model.apply(
        {"backbone": backbone, "adapters": {"embed": {"prompt": prompt}}, "head": {}}, {"input_ids": ids}
    )
    text = jnp.concatenate([jnp.broadcast_to(jnp.array([7, 8, 9, 10], jnp.int32), (2, 4)), ids], axis=1)
    bare = aj.Model(config, aj.HeadOnly(), aj.NoHead())
    expected = bare.apply({"backbone": backbone, "adapters": {}, "head": {}}, {"input_ids": text}).hidden[:, 4:]
    np.testing.assert_allclose(found.hidden, expected, atol=1e-5)


def test_token_types_play_no_part_where_there_are_none_or_one():
    for family in ("roberta", "distilbert"):
        model = aj.Model(CONFIGS[family], aj.HeadOnly(), aj.NoHead())
        params = {"backbone": weights_of(family, None), "adapters": {}, "head": {}}
        ones = dict(BATCH) | {"token_type_ids": jnp.ones_like(BATCH["input_ids"])}
        np.testing.assert_array_equal(model.apply(params, BATCH).hidden, model.apply(params, ones).hidden)


def test_every_family_is_tried():
    assert set(CONFIGS) | {"bert"} == set(SIZES)
