"""One step: what it trains, what it leaves alone, and what it does with a loss that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adapters_jax as aj
from adapters_jax import optim, trees
from adapters_jax.bert import weights
from adapters_jax.testing import assert_same, fake_batch
from adapters_jax.training.step import PerShape, dropout_key, eval_step, init_state, make_train_step

OPTIMIZER = dict(lr=0.1, total_steps=100, warmup=0.0, schedule="constant", weight_decay=0.5, clip_norm=0.01)


class Setup:
    """A tiny model, its optimiser, state and compiled step."""

    def __init__(self, tx=None, dropout=0.0, seed=0, accumulate=1, method=None, optimizer="adamw"):
        config = aj.BertConfig.tiny(
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.2
        )
        method = method or aj.Houlsby(bottleneck=4, init_std=0.1)
        self.model = aj.Model(config, method, aj.Classification(num_labels=3, dropout=dropout))
        self.params = self.model.init(jax.random.key(0), weights.initialise(jax.random.key(1), config))
        labels = self.model.labels(self.params)
        if tx is None:
            tx, _ = optim.make_optimizer(optimizer, **OPTIMIZER)
        tx = optim.freeze(tx, labels)
        trained, self.frozen = trees.split(self.params, labels)
        self.state = init_state(trained, tx, seed)
        step = make_train_step(self.model, tx, impl="counter_hash", accumulate=accumulate)
        self.step = PerShape(step, donate=(0,))

    def run(self, batch, steps=1):
        for _ in range(steps):
            self.state, self.measured = self.step(self.state, self.frozen, batch)
        return self.state


def batch_of(rows=8, padding=0, seed=0):
    batch = {name: np.array(leaf) for name, leaf in fake_batch(aj.BertConfig.tiny(), rows, 8, seed).items()}
    batch["weight"][rows - padding :] = 0.0
    return batch


@pytest.mark.parametrize("optimizer", optim.OPTIMIZERS)
def test_frozen_leaves_stay_and_trained_ones_move(optimizer):
    setup = Setup(optimizer=optimizer)
    before = jax.tree.map(np.array, setup.params)
    trained = {path for path, label in trees.flatten(setup.model.labels(before)).items() if label != "frozen"}
    setup.run(batch_of(), 3)
    after = trees.join(setup.state.trained, setup.frozen)
    unlike = {
        path for path, leaf in trees.flatten(before).items() if not np.array_equal(leaf, trees.flatten(after)[path])
    }
    assert unlike == trained
    assert_same(setup.params, before)


def test_optimiser_state_holds_no_frozen_shape():
    setup = Setup()
    trained = {leaf.shape for leaf in jax.tree.leaves(setup.state.trained)}
    frozen = {leaf.shape for leaf in jax.tree.leaves(setup.frozen)} - trained
    state = {leaf.shape for leaf in jax.tree.leaves(setup.state.opt_state)}
    assert state <= trained | {()} and not state & frozen
    sizes = sum(leaf.size for leaf in jax.tree.leaves(setup.state.opt_state) if leaf.shape)
    assert sizes == 2 * trees.count(setup.state.trained)


def test_loss_falls():
    setup = Setup(tx=optax.adam(1e-2))
    batch = batch_of()
    setup.run(batch)
    first = float(setup.measured["loss"])
    setup.run(batch, 30)
    assert float(setup.measured["loss"]) < 0.5 * first
    assert set(setup.measured) == {"loss", "grad_norm"}


@pytest.mark.parametrize("padding", [0, 3])
def test_accumulation_is_the_whole_batch(padding):
    batch = batch_of(padding=padding)
    whole, parts = (Setup(tx=optax.sgd(1.0), accumulate=a) for a in (1, 4))
    leaves = [jax.tree.leaves(setup.run(batch, 2).trained) for setup in (whole, parts)]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert float(whole.measured["loss"]) == pytest.approx(float(parts.measured["loss"]), abs=1e-6)
    assert float(whole.measured["grad_norm"]) == pytest.approx(float(parts.measured["grad_norm"]), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_padding_rows_count_nothing(accumulate):
    batch, other = batch_of(padding=3), batch_of(padding=3)
    other["input_ids"][5:], other["labels"][5:], other["mask"][5:] = 7, 1, 1
    a, b = (Setup(tx=optax.sgd(1.0), accumulate=accumulate).run(x) for x in (batch, other))
    assert_same(a.trained, b.trained)


def test_loss_is_the_mean_over_real_rows_plus_the_penalty(monkeypatch):
    monkeypatch.setattr(aj.Model, "penalty", lambda self, params: jnp.float32(10.0))
    batch = batch_of(padding=2)
    expected = Setup()
    logits = eval_step(expected.model)(expected.params, batch)
    rows = np.asarray(expected.model.head.loss(logits, batch))[:6]
    for accumulate in (1, 4):
        setup = Setup(accumulate=accumulate)
        setup.run(batch)
        assert float(setup.measured["loss"]) == pytest.approx(rows.mean() + 10.0, rel=1e-6)


def test_same_seed_same_bits_and_another_seed_others():
    batch = batch_of()
    a, b, c = (Setup(dropout=0.3, seed=seed).run(batch, 2) for seed in (0, 0, 1))
    assert_same(a.trained, b.trained)
    assert trees.diff(a.trained, c.trained)


def test_keys_differ_by_step_part_and_seed():
    keys = [dropout_key(*place) for place in ((0, "rbg", 0, 0), (0, "rbg", 0, 1), (0, "rbg", 1, 0), (1, "rbg", 0, 0))]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 4


def test_a_step_that_is_not_finite_changes_nothing_from_then_on():
    setup = Setup()
    good = jax.tree.map(np.array, setup.run(batch_of(), 2))
    bad = batch_of()
    bad["weight"][0] = np.inf
    setup.run(bad)
    assert not np.isfinite(setup.measured["loss"])
    setup.run(batch_of(), 3)
    assert int(setup.state.bad_step) == 3 and int(setup.state.step) == 2
    assert_same(good.trained, setup.state.trained)
    for a, b in zip(jax.tree.leaves(good.opt_state), jax.tree.leaves(setup.state.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_compilation_per_shape():
    setup = Setup()
    for rows in (8, 4, 8, 4, 8):
        setup.run(batch_of(rows))
    assert setup.step.compilations == 2 and setup.step.seconds > 0
