"""Several tasks side by side: each learns as if alone, or all share an adapter; who is not on turn stays as it is."""

import dataclasses

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.data.sampling import draw_tasks, probabilities
from adapters_jax.errors import ConfigError
from adapters_jax.training import multitask
from adapters_jax.training.multitask import Task, fit_tasks, initial_tasks
from adapters_jax.training.settings import Settings

pytestmark = pytest.mark.slow

TINY = aj.BertConfig.tiny(num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
NLI = [{"text": "the cat is good", "label": "yes"}, {"text": "a dog is not in", "label": "no"}] * 6
SCORES = [{"text": f"{'good ' * n}man", "text_pair": "bad", "label": n / 2} for n in range(8)]
STEADY = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0, "batch_size": 4, "max_length": 24, "quiet": True}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"), TINY)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    method = aj.Pfeiffer(bottleneck=4)
    heads = {"nli": aj.Classification(labels=("no", "yes"), dropout=0.0), "score": aj.Regression(dropout=0.0)}
    rows = {"nli": NLI, "score": SCORES}
    return {name: Task(aj.Model(TINY, method, head), rows[name], rows[name][:4]) for name, head in heads.items()}


def own_steps(seed: int, total: int, task: int) -> int:
    return int(np.sum(draw_tasks({"nli": 0.5, "score": 0.5}, seed, total) == task))


def test_side_by_side_each_learns_as_if_alone(backbone, tasks):
    params = initial_tasks(tasks, backbone.params, seed=3)
    found, report = fit_tasks(
        tasks, params, backbone, share=False, sampling="uniform", steps=9, seed=3, keep="last", **STEADY
    )
    assert report.steps == 9 and set(report.metrics) == {"mean", "nli/accuracy", "score/pearson", "score/spearman"}
    for number, (name, task) in enumerate(tasks.items()):
        steps = own_steps(3, 9, number)
        assert steps >= 2
        _, alone = aj.fit(task.model, params[name], backbone, task.train, steps=steps, seed=3, keep="last", **STEADY)
        for path, leaf in trees.flatten(alone.params).items():
            np.testing.assert_allclose(trees.flatten(found[name])[path], leaf, rtol=2e-4, atol=1e-6, err_msg=path)


def test_a_shared_adapter_is_one_and_frozen_leaves_stay(backbone, tasks):
    params = initial_tasks(tasks, backbone.params, seed=0)
    testing.assert_same(params["nli"]["adapters"], params["score"]["adapters"])
    found, _ = fit_tasks(tasks, params, backbone, steps=6, seed=0, keep="last", **STEADY)
    testing.assert_same(found["nli"]["adapters"], found["score"]["adapters"])
    assert trees.diff(found["nli"]["adapters"], params["nli"]["adapters"])
    for whole in found.values():
        testing.assert_same(whole["backbone"], backbone.params)


@pytest.mark.parametrize("share", [True, False])
def test_what_a_method_keeps_of_its_leaves_goes_with_them(backbone, tasks, share):
    model = dataclasses.replace(tasks["nli"].model, method=aj.AdaLoRA(rank=2, target_rank=1))
    part = multitask.Part(model, model.init(jax.random.key(0), backbone.params), Settings(lr=1e-3, steps=9), 9, share)
    shared, own = part.moments.split(jax.tree_util.tree_map_with_path(lambda path, _: str(path), part.state.opt_state))
    for kept in ("sensitivity", "uncertainty"):
        assert any(kept in path for path in shared) is share
        assert any(kept in path for path in own) is not share
    assert any("head" in path and "mu" in path for path in own)
    assert not any("head" in path for path in shared)
    assert all("adapters" in path for path in shared if "mu" in path)


@pytest.mark.parametrize("share", [True, False])
def test_who_is_not_on_turn_stays_as_it_is(backbone, tasks, monkeypatch, share):
    monkeypatch.setattr(multitask, "draw_tasks", lambda shares, seed, steps: np.zeros(steps, np.int64))
    params = initial_tasks(tasks, backbone.params, seed=0)
    found, _ = fit_tasks(tasks, params, backbone, share=share, steps=3, keep="last", weight_decay=0.1, **STEADY)
    testing.assert_same(found["score"]["head"], params["score"]["head"])
    assert trees.diff(found["nli"]["head"], params["nli"]["head"])
    assert bool(trees.diff(found["score"]["adapters"], params["score"]["adapters"])) is share


def test_a_resumed_run_is_the_same_run(backbone, tasks, tmp_path, monkeypatch):
    params = initial_tasks(tasks, backbone.params, seed=1)
    settings = STEADY | {"steps": 8, "seed": 1, "save_every": 2, "eval_every": 4}
    expected, _ = fit_tasks(tasks, params, backbone, **settings)
    whole, made = multitask.make_batch, iter(range(1, 100))

    def interrupted(*args):
        if next(made) == 6:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(multitask, "make_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_tasks(tasks, params, backbone, out_dir=tmp_path, **settings)
    monkeypatch.setattr(multitask, "make_batch", whole)
    found, report = fit_tasks(tasks, params, backbone, out_dir=tmp_path, **settings)
    assert report.steps == 8
    for name in tasks:
        testing.assert_same(found[name], expected[name])
    with pytest.raises(aj.AdaptersJaxError, match="shares.nli is"):
        fit_tasks(tasks, params, backbone, out_dir=tmp_path, sampling="uniform", **settings)


@pytest.mark.parametrize(
    ("sampling", "temperature", "expected"),
    [("proportional", 2.0, [0.9, 0.1]), ("uniform", 2.0, [0.5, 0.5]), ("temperature", 2.0, [0.75, 0.25])],
)
def test_shares_and_draws(sampling, temperature, expected):
    shares = probabilities({"big": 9000, "small": 1000}, sampling, temperature)
    np.testing.assert_allclose(list(shares.values()), expected, atol=1e-9)
    drawn = draw_tasks(shares, 0, 20_000)
    assert abs(np.mean(drawn == 0) - expected[0]) < 0.015
    np.testing.assert_array_equal(draw_tasks(shares, 0, 500), drawn[:500])
    assert np.any(draw_tasks(shares, 1, 500) != drawn[:500])


def test_bad_values(backbone, tasks):
    params = initial_tasks(tasks, backbone.params, seed=0)
    fails = lambda match, *args, **kwargs: pytest.raises(ConfigError, match=match)
    with fails("at least one"):
        fit_tasks({}, {}, backbone)
    with fails("unknown sampling"):
        fit_tasks(tasks, params, backbone, sampling="even", steps=1, **STEADY)
    with fails("above 0"):
        probabilities({"a": 1}, "temperature", 0.0)
    other = Task(aj.Model(TINY, aj.LoRA(rank=2), aj.Regression()), SCORES, SCORES)
    with fails("one method to share"):
        fit_tasks(tasks | {"other": other}, params, backbone)
    with fails("dev rows"):
        fit_tasks({"nli": Task(tasks["nli"].model, NLI, None)}, params, backbone)
    with fails("none 'mean'"):
        fit_tasks({"mean": tasks["nli"]}, params, backbone)
    assert jax.tree.leaves(params)
