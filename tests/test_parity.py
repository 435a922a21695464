"""Agreement with transformers, with an independent transcription of Houlsby, and with `adapters`, in float32.

The vectors come from torch (parity/oracle.py). The stored ones hold sketches and samples of large arrays; `make parity`
derives them again, whole, and runs these tests on those. The bounds are fixed: a failure means the package is wrong.
"""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import optim, trees
from parity import ours, recipe

HIDDEN = 1e-4
LOGITS = 1e-5
GRADIENT = 1e-5  # of the leaf's norm
KEY_BIAS = 1e-6  # absolutely: its gradient is 0 in theory
UPDATE = 1e-6

pytestmark = pytest.mark.parametrize("name", recipe.CASES)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def backbone(name: str) -> tuple[aj.BertConfig, dict]:
    """The same weights as the oracle's, through the package's own loading where they are released ones."""
    folder = recipe.case(name).folder
    if folder is not None:
        loaded = aj.load_backbone(str(folder))
        config, flat = loaded.config, trees.to_layers(loaded.params)
    else:
        config, flat = aj.BertConfig(**recipe.BASE), {}
    return config, ours.backbone(config, flat)


def build(name: str, method: str) -> tuple[aj.Model, dict]:
    """A model and its parameters: the recipe's adapters and head."""
    config, params = backbone(name)
    methods = {"houlsby": aj.Houlsby(bottleneck=recipe.case(name).bottleneck), "full": aj.Full(), "head": aj.HeadOnly()}
    model = aj.Model(config, methods[method], aj.Classification(num_labels=recipe.LABELS))
    added = recipe.adapter_tensors(config.num_hidden_layers, config.hidden_size, recipe.case(name).bottleneck)
    wanted = {path: value for path, value in added.items() if method == "houlsby" or path.startswith("head/")}
    flat = trees.to_layers({"backbone": params}) | wanted
    return model, trees.from_layers(flat, model.abstract(params))


def batch(name: str, number: int) -> dict[str, np.ndarray]:
    found = recipe.batches(backbone(name)[0].vocab_size)[number]
    return found | {"weight": np.ones(len(found["labels"]), np.float32)}


@functools.cache
def vectors(folder: Path, name: str) -> dict[str, np.ndarray]:
    return recipe.load(folder / f"{name}.npz")


def test_backbone(name: str, golden: Path):
    stored = vectors(golden, name)
    model, params = build(name, "head")
    for number in range(3):
        inputs = batch(name, number)
        output = jax.jit(lambda p, b: model.apply(p, b, hidden_states=True))(params, inputs)
        assert len(output.hidden_states) == model.config.num_hidden_layers + 1
        for layer, hidden in enumerate(output.hidden_states):
            tokens = np.asarray(hidden)[inputs["mask"] == 1]
            assert recipe.absolute_error(stored, f"bert/{number}/hidden/{layer}", tokens) <= HIDDEN, (number, layer)
            assert recipe.relative_error(stored, f"bert/{number}/hidden/{layer}", tokens) <= HIDDEN, (number, layer)
        assert recipe.absolute_error(stored, f"bert/{number}/pooled", np.asarray(output.pooled)) <= HIDDEN
        assert recipe.relative_error(stored, f"bert/{number}/pooled", np.asarray(output.pooled)) <= HIDDEN


def test_houlsby_forward(name: str, golden: Path):
    stored = vectors(golden, name)
    model, params = build(name, "houlsby")
    for number in range(3):
        inputs = batch(name, number)
        output = jax.jit(model.apply)(params, inputs)
        tokens = np.asarray(output.hidden)[inputs["mask"] == 1]
        for oracle in ("houlsby", "adapters"):
            assert recipe.absolute_error(stored, f"{oracle}/{number}/hidden", tokens) <= HIDDEN, oracle
            assert recipe.relative_error(stored, f"{oracle}/{number}/hidden", tokens) <= HIDDEN, oracle
        assert recipe.absolute_error(stored, f"houlsby/{number}/logits", np.asarray(output.logits)) <= LOGITS


@pytest.mark.parametrize("method", ["houlsby", "full"])
def test_gradients(name: str, method: str, golden: Path):
    stored = vectors(golden, name)
    model, params = build(name, method)
    trained, frozen = trees.split(params, model.labels(params))

    def loss(trained, frozen, inputs):
        total, weight = model.loss(trees.join(trained, frozen), inputs)
        return total / weight

    value, gradients = jax.jit(jax.value_and_grad(loss))(trained, frozen, batch(name, 0))
    assert recipe.absolute_error(stored, f"{method}/loss", np.asarray(value)) <= LOGITS
    flat = trees.to_layers(gradients)
    prefix = f"{method}/gradient/"
    assert sorted(flat) == [path.removeprefix(prefix) for path in recipe.names(stored, prefix)]
    for path, gradient in flat.items():
        if path.endswith("key/bias"):
            assert recipe.absolute_error(stored, prefix + path, np.asarray(gradient)) <= KEY_BIAS, path
        else:
            assert recipe.relative_error(stored, prefix + path, np.asarray(gradient)) <= GRADIENT, path


@pytest.mark.parametrize("optimizer", ["adamw", "adam_no_bias_correction"])
def test_optimizer_steps_fed_the_same_gradients(name: str, optimizer: str, golden: Path):
    stored = vectors(golden, name)
    model, params = build(name, "houlsby")
    labels = model.labels(params)
    trained, _ = trees.split(params, labels)
    tx, _ = optim.make_optimizer(optimizer, total_steps=100, warmup=0.0, schedule="constant", **recipe.OPTIMIZER)
    tx = optim.freeze(tx, labels)

    @jax.jit
    def step(trained, state, gradients):
        updates, state = tx.update(gradients, state, trained)
        return optim.apply_updates(trained, updates), state

    state = tx.init(trained)
    for number in range(recipe.STEPS):
        flat = trees.to_layers(trained)
        fed = {path: recipe.fed_gradient(path, number, leaf.shape) for path, leaf in flat.items()}
        trained, state = step(trained, state, trees.from_layers(fed, trained))
        if number in (0, recipe.STEPS - 1):
            after = trees.to_layers(trained)
            assert sorted(after) == [
                key.removeprefix(f"{optimizer}/{number}/") for key in recipe.names(stored, f"{optimizer}/{number}/")
            ]
            for path, leaf in after.items():
                key = f"{optimizer}/{number}/{path}"
                assert recipe.absolute_error(stored, key, np.asarray(leaf)) <= UPDATE, (number, path)
                assert recipe.relative_error(stored, key, np.asarray(leaf)) <= 10 * UPDATE, (number, path)
