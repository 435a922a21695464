"""Agreement with the methods of `adapters` and peft: logits, gradients, a step of each trained leaf, in float32.

The vectors come from torch (parity/peers_oracle.py), on a small random BERT. Stored ones were made in float64; `make
parity` derives them again and runs these tests on those. The bounds are fixed: a failure means the package is wrong.
"""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import optim, trees
from adapters_jax.methods.fusion import attention
from parity import ours, peers, recipe

LOGITS = 1e-5
GRADIENT = 1e-5  # of the leaf's norm
ROUNDING = 1e-10  # absolutely: what float32 leaves of a scalar's gradient, terms of 1e-4 that nearly cancel
UPDATE = 1e-6
KEY_BIAS = 1e-6  # absolutely: its gradient is 0 in theory
CONFIG = aj.BertConfig(**peers.CONFIG)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def backbone() -> dict:
    return ours.backbone(CONFIG)


def build(case: str) -> tuple[aj.Model, dict]:
    """The case's method with the oracle's values."""
    model = aj.Model(CONFIG, peers.METHODS[case](), aj.Classification(num_labels=recipe.LABELS))
    like = model.abstract(backbone())
    flat = trees.to_layers({"backbone": backbone()})
    for path, leaf in trees.flatten({part: like[part] for part in ("adapters", "head")}).items():
        shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
        flat |= {name: peers.value(name, shape) for name in trees.layer_paths(path, leaf)}
    return model, trees.from_layers(flat, like)


def batches(case: str) -> list[dict[str, np.ndarray]]:
    found = peers.batches(full_rows=case in peers.FULL_ROWS)
    return [batch | {"weight": np.ones(len(batch["labels"]), np.float32)} for batch in found]


@functools.cache
def vectors(folder: Path) -> dict[str, np.ndarray]:
    return recipe.load(folder / "peers.npz")


def test_every_case_is_compared(golden: Path):
    assert {name.split("/")[0] for name in vectors(golden)} == set(peers.METHODS)
    assert set(peers.FULL_ROWS) <= set(peers.METHODS)


@pytest.mark.parametrize("case", peers.METHODS)
def test_logits(case: str, golden: Path):
    model, params = build(case)
    for number, batch in enumerate(batches(case)):
        logits = jax.jit(model.apply)(params, batch).logits
        assert recipe.absolute_error(vectors(golden), f"{case}/{number}/logits", np.asarray(logits)) <= LOGITS, number


@pytest.mark.parametrize("case", peers.METHODS)
def test_gradients(case: str, golden: Path):
    stored = vectors(golden)
    model, params = build(case)
    trained, frozen = trees.split(params, model.labels(params))

    def loss(trained, frozen, batch):
        total, weight = model.loss(trees.join(trained, frozen), batch)
        return total / weight + model.penalty(trees.join(trained, frozen))

    value, gradients = jax.jit(jax.value_and_grad(loss))(trained, frozen, batches(case)[0])
    assert recipe.absolute_error(stored, f"{case}/loss", np.asarray(value)) <= LOGITS
    flat, prefix = trees.to_layers(gradients), f"{case}/gradient/"
    assert sorted(flat) == [path.removeprefix(prefix) for path in recipe.names(stored, prefix)]
    for path, gradient in flat.items():
        gap = recipe.absolute_error(stored, prefix + path, np.asarray(gradient))
        if gap > (KEY_BIAS if path.endswith("key/bias") else ROUNDING):
            assert recipe.relative_error(stored, prefix + path, np.asarray(gradient)) <= GRADIENT, path


@pytest.mark.parametrize("case", peers.METHODS)
def test_an_optimizer_step_fed_the_same_gradients(case: str, golden: Path):
    stored = vectors(golden)
    model, params = build(case)
    labels = model.labels(params)
    trained, _ = trees.split(params, labels)
    tx, _ = optim.make_optimizer(
        "adamw", total_steps=100, warmup=0.0, schedule="constant", decays=model.method.decays, **recipe.OPTIMIZER
    )
    tx = optim.freeze(tx, labels)

    @jax.jit
    def step(trained, gradients):
        return optim.apply_updates(trained, tx.update(gradients, tx.init(trained), trained)[0])

    fed = {path: recipe.fed_gradient(path, 0, leaf.shape) for path, leaf in trees.to_layers(trained).items()}
    after = trees.to_layers(step(trained, trees.from_layers(fed, trained)))
    prefix = f"{case}/step/"
    assert sorted(after) == [path.removeprefix(prefix) for path in recipe.names(stored, prefix)]
    for path, leaf in after.items():
        assert recipe.absolute_error(stored, prefix + path, np.asarray(leaf)) <= UPDATE, path


def test_the_attention_of_a_fusion(golden: Path):
    case = "adapters-fusion"
    model, params = build(case)
    found = attention(jax.jit(model.apply)(params, batches(case)[0]).aux, CONFIG)["ffn_merge"]
    assert len(found) == CONFIG.num_hidden_layers
    for layer, shares in found.items():
        assert recipe.absolute_error(vectors(golden), f"{case}/attention/{layer}", np.asarray(shares)) <= LOGITS, layer
