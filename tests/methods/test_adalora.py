"""AdaLoRA against a transcription of the released loop, step by step; its budget, its counts, its place in a run."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import optim, testing, trees
from adapters_jax.analysis.ranks import of_params
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError
from adapters_jax.methods.adalora import Schedule
from adapters_jax.slots import PROJECT
from adapters_jax.training import fit as fitting
from adapters_jax.training.preemption import Preempted
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import init_state, make_optimizer, make_train_step
from tests.methods.test_lora import plain
from tests.methods.tiny import BACKBONE, THREE, TINY, drawn_model, fresh_model, run
from tests.training.tiny_job import make_job

pytestmark = pytest.mark.slow

STEPS = 200
SETTINGS = Settings(lr=5e-3, steps=STEPS, warmup=0.0, schedule="constant", weight_decay=0.01, clip_norm=0.5)
QUIET = dataclasses.replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
METHOD = aj.AdaLoRA(rank=4, target_rank=2, start=0.1, final=0.25, interval=3, beta1=0.8, beta2=0.9)
"""The budget falls from step 20 to step 150 of 200, every third step."""


class Released:
    """The loop of the released code over one run, in float64 and its own layout: A (r, in), E (r, 1), B (out, r).

    It is fed a gradient a step; clipping, AdamW, importance, budget and masks are its own.
    """

    def __init__(self, leaves: dict[str, np.ndarray], method: aj.AdaLoRA, steps: int) -> None:
        self.p = {name: self.turned(name, leaf) for name, leaf in leaves.items()}
        zeros = lambda: {name: np.zeros_like(p) for name, p in self.p.items()}
        self.m, self.v, self.ipt, self.exp_avg_ipt, self.exp_avg_unc = (zeros() for _ in range(5))
        self.method, self.total = method, steps
        self.initial_warmup, self.final_warmup = round(method.start * steps), round(method.final * steps)
        self.matrices = sorted(name.removesuffix("/e") for name in leaves if name.endswith("/e"))
        self.total_rank = sum(self.p[f"{name}/a"].shape[0] for name in self.matrices)
        self.target = method.target_rank * len(self.matrices)

    @staticmethod
    def turned(name: str, leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf, np.float64)
        return leaf[:, None] if name.endswith("/e") else leaf.T if name.endswith(("/a", "/b")) else leaf

    def step(self, step: int, gradients: dict[str, np.ndarray], settings: Settings) -> tuple[int, bool]:
        """Clip, update, weigh, prune; (the budget, whether there was a pruning)."""
        grads = {name: self.turned(name, gradient) for name, gradient in gradients.items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
        grads = {name: gradient * min(1.0, settings.clip_norm / norm) for name, gradient in grads.items()}
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g**2
            mean, square = self.m[name] / (1 - 0.9 ** (step + 1)), self.v[name] / (1 - 0.999 ** (step + 1))
            decay = 0.0 if name.endswith("bias") else settings.weight_decay
            self.p[name] = self.p[name] - settings.lr * (mean / (np.sqrt(square) + 1e-8) + decay * self.p[name])
        if step < self.total - self.final_warmup:
            for name in (f"{matrix}/{kind}" for matrix in self.matrices for kind in "aeb"):
                ipt = abs(self.p[name] * grads[name])
                old, unc = self.exp_avg_ipt[name], self.exp_avg_unc[name]
                self.exp_avg_ipt[name] = self.method.beta1 * old + (1 - self.method.beta1) * ipt
                distance = abs(ipt - self.exp_avg_ipt[name])
                self.exp_avg_unc[name] = self.method.beta2 * unc + (1 - self.method.beta2) * distance
        rank, pruning = self.budget(step)
        if pruning:
            self.prune(rank)
        return rank, pruning

    def budget(self, step: int) -> tuple[int, bool]:
        if step <= self.initial_warmup:
            return self.total_rank, False
        if step > self.total - self.final_warmup:
            return self.target, True
        left = 1 - (step - self.initial_warmup) / (self.total - self.final_warmup - self.initial_warmup)
        return int(self.target + (self.total_rank - self.target) * left**3), step % self.method.interval == 0

    def prune(self, rank: int) -> None:
        score = lambda name: self.exp_avg_ipt[name] * self.exp_avg_unc[name]
        triplets = {
            matrix: score(f"{matrix}/e")[:, 0] + score(f"{matrix}/a").mean(1) + score(f"{matrix}/b").mean(0)
            for matrix in self.matrices
        }
        threshold = np.sort(np.concatenate(list(triplets.values())))[self.total_rank - rank - 1]
        for matrix, scores in triplets.items():
            self.p[f"{matrix}/e"][scores <= threshold] = 0.0


@pytest.fixture(autouse=True)
def optimisers_count_in_integers():
    """Optax raises floats to whole powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def ours(tree: dict) -> dict[str, np.ndarray]:
    return trees.to_layers(trees.map_paths(lambda _, leaf: np.asarray(leaf, np.float64), tree))


class Training:
    """The library's optimiser of a run on a random BERT, fed a random gradient a step; some leaves matter more."""

    def __init__(self, method: aj.Method, steps: int) -> None:
        self.settings = dataclasses.replace(SETTINGS, steps=steps)
        self.model, params = fresh_model(method)
        labels = self.model.labels(params)
        self.tx, _ = make_optimizer(self.model, self.settings, steps, labels)
        trained, _ = trees.split(params, labels)
        self.trained = jax.tree.map(lambda leaf: leaf.astype(float), trained)
        self.opt_state = self.tx.init(self.trained)
        self.take = jax.jit(self.step)

    def step(self, trained, opt_state, gradient):
        updates, opt_state = self.tx.update(gradient, opt_state, trained)
        return aj.apply_updates(trained, updates), opt_state

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        """(step, its gradient), once the step was taken."""
        draw = np.random.default_rng(0)
        weights = {path: draw.lognormal(size=leaf.shape) for path, leaf in trees.flatten(self.trained).items()}
        for step in range(self.settings.steps):
            own = lambda path, leaf: jnp.asarray(draw.normal(size=leaf.shape) * weights[path], leaf.dtype)
            gradient = trees.map_paths(own, self.trained)
            self.trained, self.opt_state = self.take(self.trained, self.opt_state, gradient)
            yield step, gradient

    def measures(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.model.measures(self.trained).items()}

    @property
    def allocation(self):
        return allocation(self.opt_state)


def allocation(opt_state):
    is_one = lambda x: hasattr(x, "sensitivity")
    return next(filter(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


def near(found: dict, expected: dict, bound: float, what: str) -> None:
    """Each leaf within `bound` of its largest value, and within 1e-5."""
    for name, leaf in found.items():
        scale = float(abs(expected[name]).max())
        gap = float(abs(Released.turned(name, leaf) - expected[name]).max())
        assert gap <= min(bound * scale, 1e-5), (what, name, gap, scale)


@pytest.mark.parametrize("wide, bound", [(False, 1e-4), (True, 1e-6)], ids=["float32", "float64"])
def test_two_hundred_steps_as_released(wide: bool, bound: float):
    with jax.enable_x64(wide):
        follow(Training(METHOD, STEPS), bound)


def follow(training: Training, bound: float) -> None:
    reference = Released(ours(training.trained), METHOD, STEPS)
    pruned, budgets = 0, []
    for step, gradient in training:
        rank, pruning = reference.step(step, ours(gradient), SETTINGS)
        budgets.append(rank)
        kept = training.allocation
        assert int(kept.schedule.budget(step, reference.total_rank, reference.target)) == rank
        near(ours(kept.sensitivity), reference.exp_avg_ipt, bound, f"sensitivity after step {step}")
        near(ours(kept.uncertainty), reference.exp_avg_unc, bound, f"uncertainty after step {step}")
        near(ours(training.trained), reference.p, bound, f"leaves after step {step}")
        for name, leaf in ours(training.trained).items():
            if name.endswith("/e"):
                np.testing.assert_array_equal(leaf == 0, reference.p[name][:, 0] == 0, f"{name} after step {step}")
        if pruning:
            pruned += 1
            assert training.measures()["rank"] == rank
    assert pruned == 44 + 49 and budgets[0] == 72 and budgets[-1] == 36 and budgets == sorted(budgets, reverse=True)
    assert training.measures()["rank"] == 36


@pytest.mark.parametrize("steps, initial, target", [(86_000, 216, 72), (6_700, 864, 144), (997, 54, 17)])
def test_the_budget_of_long_runs(steps, initial, target):
    """In float32, as on accelerators; where the released curve passes a whole number, it may be that or one less."""
    plan = Schedule(steps, round(0.1 * steps), round(0.5 * steps))
    found = np.asarray(plan.budget(jnp.arange(steps), initial, target))
    left = 1 - (np.arange(steps) - plan.first) / (steps - plan.last - plan.first)
    curve = target + (initial - target) * left**3
    expected = np.select(
        [np.arange(steps) <= plan.first, np.arange(steps) > steps - plan.last], [initial, target], np.floor(curve)
    )
    gap = np.abs(found - expected)
    assert gap.max() <= 1 and np.all(np.abs(curve - np.round(curve))[gap == 1] < 1e-3) and gap.mean() < 1e-3


def test_the_forward_pass_by_its_definition():
    model, params = drawn_model(dataclasses.replace(METHOD, layers=(0, 2)))
    flat, kernels = ours(params["adapters"]), {}
    for place in {path.rsplit("/", 1)[0] for path in flat}:
        change = flat[f"{place}/a"] @ np.diag(flat[f"{place}/e"]) @ flat[f"{place}/b"] * 16 / (4 + 1e-5)
        kernels[f"{place}/kernel"] = ours(BACKBONE)[f"{place}/kernel"] + change
    assert len(kernels) == 2 * len(PROJECT)
    expected = plain(kernels, params["head"])
    assert np.abs(expected - plain({}, params["head"])).max() > 0.05
    np.testing.assert_allclose(run(model, params).hidden, expected, atol=2e-5)


def test_the_regulariser_by_its_definition():
    model, params = drawn_model(METHOD)
    norms = []
    for name, leaf in ours(params["adapters"]).items():
        if not name.endswith("/e"):
            tall = leaf if name.endswith("/a") else leaf.T
            norms.append(np.linalg.norm(tall.T @ tall - np.eye(4)))
    assert len(norms) == 2 * 3 * len(PROJECT)
    np.testing.assert_allclose(model.penalty(params), 0.1 * np.mean(norms), rtol=1e-5)
    np.testing.assert_allclose(model.measures(params)["orthogonality"], np.mean(norms), rtol=1e-5)


@pytest.mark.parametrize("method", [dataclasses.replace(METHOD, target_rank=4), dataclasses.replace(METHOD, rank=2)])
def test_nothing_is_pruned_where_target_and_initial_rank_are_equal(method):
    training = Training(method, 6)
    assert len(list(training)) == 6
    assert training.measures()["rank"] == method.rank * 3 * len(PROJECT)


@pytest.mark.parametrize("steps", [4, 7, 40])
def test_the_target_is_met_exactly_whatever_the_length(steps):
    method = aj.AdaLoRA(rank=3, target_rank=1, layers=(1, 2), slots=("query", "ffn_in"))
    training = Training(method, steps)
    for step, _ in training:
        if step + 1 >= method.settled(steps):
            assert training.measures()["rank"] == 4, step
    assert method.settled(steps) <= steps
    ranks = of_params(training.trained)
    assert sum(rank.left for layers in ranks.values() for rank in layers.values()) == 4
    assert {slot: set(layers) for slot, layers in ranks.items()} == {"query": {1, 2}, "ffn_in": {1, 2}}


def test_equal_scores_are_pruned_by_place():
    """Leaves without any gradient score 0 all alike; the release would prune the lot."""
    method = aj.AdaLoRA(rank=4, target_rank=1, slots=("query",), start=0.0, final=0.5)
    params = {
        "adapters": trees.unflatten({"encoder/query/a": jnp.ones((2, 3, 4)), "encoder/query/e": jnp.ones((2, 4))})
    }
    params["adapters"]["encoder"]["query"]["b"] = jnp.ones((2, 4, 5))
    tx = method.transform(optim.optax.identity(), 8)
    state = tx.init(params)
    for _ in range(8):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = aj.apply_updates(params, updates)
    assert int(jnp.sum(params["adapters"]["encoder"]["query"]["e"] != 0)) == 2


def test_accumulation_counts_optimiser_steps():
    method = dataclasses.replace(METHOD, slots=("query", "value"))
    model, params = fresh_model(method, aj.Classification(num_labels=3, dropout=0.0), QUIET)
    batch, found = testing.fake_batch(QUIET, rows=4), {}
    for parts in (1, 2):
        labels = model.labels(params)
        tx, _ = make_optimizer(model, SETTINGS, STEPS, labels)
        trained, frozen = trees.split(params, labels)
        state = init_state(trained, tx)
        take = jax.jit(make_train_step(model, tx, impl="counter_hash", accumulate=parts))
        for _ in range(3):
            state, measured = take(state, frozen, batch)
        assert measured["rank"] == 72 * 2 // 6 and measured["orthogonality"] > 0
        found[parts] = allocation(state.opt_state)
    assert int(found[1].step) == int(found[2].step) == 3
    for name, leaf in ours(found[1].sensitivity).items():
        np.testing.assert_allclose(ours(found[2].sensitivity)[name], leaf, rtol=1e-2, atol=1e-3 * abs(leaf).max())


def test_parts_of_a_composition_have_budgets_of_their_own():
    method = aj.compose(
        dataclasses.replace(METHOD, target_rank=1), aj.LoRA(rank=2), dataclasses.replace(METHOD, rank=2)
    )
    training = Training(method, 20)
    assert len(list(training)) == 20
    measured = training.measures()
    assert measured.keys() == {
        f"{name}/{kind}" for name in ("adalora", "adalora_2") for kind in ("rank", "orthogonality")
    }
    assert (measured["adalora/rank"], measured["adalora_2/rank"]) == (18, 36)


def test_parameters_as_published():
    config = aj.BertConfig.base()
    assert aj.Model(config, aj.AdaLoRA(rank=2), THREE).summary(weights.abstract(config)).adapter == 331_920


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(target_rank=4), "method.target_rank: expected at most the rank 3, got 4"),
        (dict(start=0.5, final=0.5), "method.final: expected start and final to leave steps between them"),
        (dict(slots=("embed",)), "method.slots: unknown slots 'embed'"),
        (dict(rank=0), "method.rank: expected a whole number of at least 1, got 0"),
        (dict(beta1=1.0), "method.beta1: expected a rate in \\[0, 1\\), got 1.0"),
        (dict(orthogonality=-1.0), "method.orthogonality: expected a finite number"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        aj.AdaLoRA(**given)


def test_a_rank_above_the_width_and_a_run_too_short_are_refused():
    with pytest.raises(ConfigError, match="method.rank: expected at most the backbone's width 16, got 17"):
        aj.Model(TINY, aj.AdaLoRA(rank=17), THREE)
    with pytest.raises(ConfigError, match="steps: adalora needs steps between .* 0 and 2 of 2; train for longer"):
        aj.AdaLoRA().schedule(2)
    assert aj.AdaLoRA().schedule(3) == Schedule(3, 0, 2)


def test_only_steps_with_final_ranks_are_kept(tmp_path):
    """And a run that was stopped after every third step ends with the bits of one that was not."""
    job = make_job(tmp_path / "backbone", aj.AdaLoRA(rank=2, slots=("query", "value")))
    wanted = dict(steps=12, eval_every=1, lr=3e-2)
    state, report = job.fit(out_dir=tmp_path / "whole", **wanted)
    assert report.step >= job.model.method.settled(12) == 8 and len(report.history) == 12
    left = [rank.left for layers in of_params(report.params).values() for rank in layers.values()]
    assert sum(left) == 2 * job.model.config.num_hidden_layers
    logged = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in logged if "loss" in line]
    assert steps[0]["rank"] == 8 and steps[-1]["rank"] == 4 and steps[-1]["orthogonality"] > 0

    make_batch, calls = fitting.make_batch, iter(range(1, 100))

    def terminated(*args):
        if next(calls) % 3 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "make_batch", terminated)
        for _ in range(3):
            with pytest.raises(Preempted):
                job.fit(out_dir=tmp_path / "stopped", **wanted)
    again, resumed = job.fit(out_dir=tmp_path / "stopped", **wanted)
    testing.assert_same(resumed.params, report.params)
    for a, b in zip(jax.tree.leaves(again.opt_state), jax.tree.leaves(state.opt_state), strict=True):
        np.testing.assert_array_equal(a, b)
