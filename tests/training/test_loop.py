"""`fit`, from data to report."""

import dataclasses

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from adapters_jax.testing import assert_same
from adapters_jax.training import fit as loop
from adapters_jax.training.step import eval_step
from tests.training.tiny_job import TASK, log_of, rows


def test_report_and_log(job, finished):
    folder, state, report = finished
    assert report.steps == int(state.step) == 12
    assert [entry["step"] for entry in report.history] == [3, 6, 9, 12]
    # The evaluation step may have been compiled before, for another run of the same model.
    assert report.compilations in (1, 2) and report.compile_seconds > 0 and report.seconds > 0
    best = max(report.history, key=lambda entry: entry["metrics"]["accuracy"])
    assert (report.step, report.metrics) == (best["step"], best["metrics"])
    lines = log_of(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert {"step", "loss", "lr", "grad_norm", "rows_per_second"} == set(lines[0])
    assert [line["eval"] for line in lines if "eval" in line] == [entry["metrics"] for entry in report.history]
    assert not any("resumed_from" in line for line in lines)


def test_only_trained_leaves_move_and_the_caller_keeps_its_own(job, finished):
    labels = trees.flatten(job.model.labels(job.params))
    moved = [path for path, leaf in trees.flatten(job.params).items() if _unlike(leaf, finished[2].params, path)]
    assert moved and all(labels[path] != "frozen" for path in moved)


def _unlike(leaf, params, path):
    return not np.array_equal(np.asarray(leaf), np.asarray(trees.flatten(params)[path]))


def test_in_memory_gives_the_same_bits(job, finished):
    _, state, report = finished
    again_state, again = job.fit()
    assert_same(again.params, report.params)
    assert_same(again_state.trained, state.trained)
    assert again.history == report.history


def test_keep_last(job, finished, tmp_path):
    _, state, report = finished
    assert report.step < 12, "the tiny job should have a best step before the last, for this test to say something"
    _, last = job.fit(keep="last", out_dir=tmp_path)
    assert last.step == 12 and last.metrics == report.history[-1]["metrics"]
    assert_same(last.params, trees.join(state.trained, trees.split(job.params, job.model.labels(job.params))[1]))
    assert trees.diff(last.params, report.params)


def test_another_seed_gives_other_bits(job, finished):
    _, other = job.fit(seed=1)
    assert trees.diff(other.params, finished[2].params)


def test_without_dev(job):
    _, report = job.fit(dev=None)
    assert (report.step, report.metrics, report.history) == (12, {}, ())


@pytest.mark.parametrize("out_dir", [None, "run"])
def test_early_stop(job, tmp_path, out_dir, monkeypatch):
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: ({"accuracy": next(scores)}, None))
    folder = out_dir and tmp_path / out_dir
    _, report = job.fit(early_stop=2, eval_every=2, out_dir=folder)
    assert (report.steps, report.step, report.metrics) == (8, 4, {"accuracy": 0.6})
    if folder:
        _, again = job.fit(early_stop=2, eval_every=2, out_dir=folder)
        assert (again.steps, again.step) == (8, 4)
        assert_same(again.params, report.params)


def test_learns_what_the_toy_rows_say(tmp_path):
    from tests.training.tiny_job import make_job

    job = make_job(tmp_path, aj.Full(), initializer_range=0.2)
    _, report = job.fit(steps=60, eval_every=20, lr=3e-3)
    assert report.metrics["accuracy"] >= 0.9


def test_nothing_is_compiled_once_the_lengths_are_known(job, monkeypatch):
    long = [row | {"text_pair": "a cat and a dog and a man"} for row in rows(16)]
    mixed = dataclasses.replace(job, train=job.train + long, dev=job.dev + long[:5])
    compiled: list[int] = []
    count = lambda event, *_, **__: compiled.append(taken[0]) if event.endswith("backend_compile_duration") else None
    taken = [0]
    make_batch = loop.make_batch

    def counted(*args):
        taken[0] += 1
        return make_batch(*args)

    monkeypatch.setattr(loop, "make_batch", counted)
    eval_step.cache_clear()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        _, report = mixed.fit(steps=20, eval_every=5, save_every=5)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert report.compilations == 4
    assert taken == [20] and [step for step in compiled if step > 10] == []


def test_a_loss_that_is_not_finite_stops_and_keeps_the_step_before(job, tmp_path, monkeypatch):
    make_batch = loop.make_batch
    taken = iter(range(1, 100))

    def poisoned(*args):
        batch = make_batch(*args)
        return batch | {"weight": batch["weight"] * np.nan} if next(taken) == 6 else batch

    _, whole = job.fit(steps=12, keep="last", dev=None, out_dir=tmp_path / "good", save_every=5)
    monkeypatch.setattr(loop, "make_batch", poisoned)
    with pytest.raises(TrainingError, match=r"step 6: the loss or its gradient is not finite.*step 5 is kept") as error:
        job.fit(keep="last", dev=None, out_dir=tmp_path / "bad", save_every=9, log_every=9)
    assert "\n" not in str(error.value)
    # The run can go on from step 5, once its data is right: the state is that of the run without the bad batch.
    monkeypatch.setattr(loop, "make_batch", make_batch)
    _, again = job.fit(keep="last", dev=None, out_dir=tmp_path / "bad", save_every=9, log_every=9)
    assert {"resumed_from": 5} in log_of(tmp_path / "bad")
    assert_same(again.params, whole.params)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"max_length": 65}, ConfigError, "max_length: expected at most the model's 64 positions, got 65"),
        ({"best_metric": "f1"}, ConfigError, "unknown best metric 'f1': known are accuracy"),
        ({"metrics": ("acuracy",)}, ConfigError, "did you mean"),
        ({"early_stop": 2, "dev": None}, ConfigError, "early_stop: expected dev rows"),
        ({"tensorboard": True}, ConfigError, "expected an out_dir"),
        ({"dev": [{"text": "a", "text_pair": "b", "label": 7}]}, DataError, "class number"),
        ({"dev": [{"text": "a", "text_pair": "b"}]}, DataError, "dev: expected rows with labels"),
        ({"learning_rate": 1.0}, ConfigError, "unknown setting 'learning_rate'"),
    ],
)
def test_refused_before_anything_is_compiled(job, change, error, message):
    with pytest.raises(error, match=message) as raised:
        job.fit(**change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("labels", [("no", "yes", "perhaps"), (0.5, 1.5), None])
def test_labels_that_the_head_does_not_have(job, labels):
    train = [{"text": "a", "label": label} for label in labels] if labels else [{"text": "a"}]
    with pytest.raises(DataError, match="train: expected"):
        dataclasses.replace(job, train=train).fit(dev=None)


def test_a_run_of_other_settings_is_refused(job, finished):
    with pytest.raises(CheckpointError, match=r"settings.lr is 0.01 there and 0.02 here"):
        job.fit(out_dir=finished[0], lr=0.02)
    other = dataclasses.replace(job, train=job.train[:-1])
    with pytest.raises(CheckpointError, match="train_rows is"):
        other.fit(out_dir=finished[0])
    other = dataclasses.replace(job, dev=job.dev[:-1])
    with pytest.raises(CheckpointError, match="dev_rows is"):
        other.fit(out_dir=finished[0])
    assert TASK["lr"] == 0.01


def test_no_frozen_leaf_in_the_checkpoints(job, finished):
    from adapters_jax.checkpoint import Checkpoints
    from adapters_jax.manifest import read

    folder = finished[0] / "checkpoints"
    newest = Checkpoints(folder).latest()
    leaves = read(folder / str(newest), 1)["leaves"]
    trained = [path for path, label in trees.flatten(job.model.labels(job.params)).items() if label != "frozen"]
    assert sorted(name for name in leaves if name.startswith("trained/")) == sorted(
        f"trained/{path}" for path in trained
    )
    assert not any("words" in name or "query" in name for name in leaves)
