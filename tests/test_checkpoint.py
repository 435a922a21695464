"""Training checkpoints: bit-exact, verified, kept. Full disks and killed processes: test_checkpoint_failures.py."""

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adapters_jax import checkpoint, manifest
from adapters_jax.checkpoint import Checkpoints
from adapters_jax.errors import CheckpointError


class State(NamedTuple):
    trained: Any
    opt_state: Any
    step: Any
    key: Any


def make_state(seed: int = 0) -> State:
    """Trained leaves with holes, the state of a masked optimiser, a step and key data."""
    rng = np.random.default_rng(seed)
    trained = {
        "adapters": {
            "encoder": {"down": jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)},
            "gate": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        },
        "backbone": {"embeddings": optax.MaskedNode(), "norm": jnp.asarray(rng.normal(size=3), jnp.float32)},
    }
    labels = {
        "adapters": {"encoder": {"down": "adapter"}, "gate": "adapter"},
        "backbone": {"embeddings": "frozen", "norm": "adapter"},
    }
    tx = optax.multi_transform({"adapter": optax.adamw(1e-3), "frozen": optax.set_to_zero()}, labels)
    key = jax.random.key_data(jax.random.key(seed, impl="rbg"))
    return State(trained, tx.init(trained), jnp.int32(seed), key)


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def save_all(folder: Path, scores: dict[int, float | None], **options: Any) -> Checkpoints:
    with Checkpoints(folder, **options) as store:
        for step, score in scores.items():
            store.save(step, make_state(step), best=score)
    return Checkpoints(folder, **options)


def flip(path: Path, at: int | None = None, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1 << bit
    path.write_bytes(bytes(data))


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps 1 and 2, for tests that copy it."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save_all(folder, {1: 0.5, 2: 0.25})
    return folder


@pytest.fixture
def damaged(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_the_state_comes_back_bit_for_bit(tmp_path: Path):
    state = make_state(7)._replace(step=np.int64(2**40 + 1))
    extra = {"history": [0.1, 1e-17], "label": "größer ☃"}
    with Checkpoints(tmp_path) as store:
        store.save(3, state, metrics={"accuracy": np.float32(0.5), "f1": 1}, best=np.float64(0.1), extra=extra)
        restored = store.restore(state)
    assert restored.step == 3 and restored.extra == extra
    assert_equal(restored.state, state)
    assert isinstance(restored.state.trained["adapters"]["gate"], jax.Array)
    assert isinstance(restored.state.step, np.ndarray | np.integer)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_state(7))
    with pytest.raises(CheckpointError, match=r"expected step int32\[\], got int64\[\]"):
        store.restore(abstract)


def test_special_values_keep_their_bits(tmp_path: Path):
    nan = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    state = {"nan": jnp.asarray(nan), "count": np.array([2**63, 1], np.uint64), "flag": np.array([True, False])}
    with Checkpoints(tmp_path) as store:
        store.save(1, state)
        assert_equal(store.restore(state).state, state)


def test_names_on_disk_are_readable_and_of_trained_leaves(two_steps: Path):
    leaves = json.loads((two_steps / "2" / "manifest.json").read_text())["leaves"]
    assert leaves["trained/adapters/encoder/down"] == {"shape": [2, 3, 4], "dtype": "float32"}
    assert leaves["opt_state/inner_states/adapter/inner_state/0/mu/backbone/norm"]["shape"] == [3]
    assert not any("embeddings" in name for name in leaves)


def test_shardings_of_the_template_are_kept(two_steps: Path):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), make_state())
    restored = Checkpoints(two_steps).restore(template)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored.state))
    assert_equal(restored.state, make_state(2))


def test_an_empty_or_missing_folder_holds_no_step(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        store = Checkpoints(folder)
        assert store.restore(make_state()) is None
        assert store.steps() == [] and store.latest() is None and store.best_step() is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("scores", "keep_best", "kept", "best"),
    [
        ({1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.1}, True, [2, 4, 5], 2),
        ({1: 0.1, 2: 0.9, 3: 0.9, 4: 0.9}, True, [2, 3, 4], 2),
        ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, True, [3, 4], 4),
        ({1: None, 2: 0.2, 3: None, 4: None, 5: None}, True, [2, 4, 5], 2),
        ({1: None, 2: None, 3: None}, True, [2, 3], None),
        ({1: 0.9, 2: 0.2, 3: 0.3}, False, [2, 3], 3),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, scores, keep_best, kept, best):
    store = save_all(tmp_path, scores, keep_best=keep_best)
    assert store.steps() == kept
    assert store.best_step() == best
    assert store.latest() == max(scores)
    for step in kept:
        assert_equal(store.restore(make_state(), step).state, make_state(step))


def test_retention_goes_on_after_a_restart(tmp_path: Path):
    save_all(tmp_path, {1: 0.9, 2: 0.1})
    store = save_all(tmp_path, {3: 0.2, 4: 0.3}, max_to_keep=2)
    assert store.steps() == [1, 3, 4] and store.best_step() == 1


def test_steps_must_grow(tmp_path: Path):
    with Checkpoints(tmp_path) as store:
        store.save(4, make_state(4))
        for step in (4, 3):
            with pytest.raises(CheckpointError, match=f"step {step} in .*: expected one after 4, the newest saved"):
                store.save(step, make_state(5))
        assert_equal(store.restore(make_state()).state, make_state(4))
        store.save(5, make_state(5))
    assert store.steps() == [4, 5]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "extra", "link"])
def test_a_damaged_newest_step_falls_back_with_a_warning(damaged: Path, damage: str):
    for path in files_of(damaged / "2"):
        content = path.read_bytes()
        name = path.relative_to(damaged / "2").as_posix()
        other = path.with_name("stray")
        if damage == "flip":
            flip(path)
        elif damage == "truncate":
            path.write_bytes(content[:-1])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "delete":
            path.unlink()
        elif damage == "extra":
            other.write_bytes(b"x")
            name = other.relative_to(damaged / "2").as_posix()
        else:
            path.rename(damaged / "away")
            path.symlink_to(damaged / "away")
        said: list[str] = []
        restored = Checkpoints(damaged, warn=said.append).restore(make_state())
        assert restored.step == 1
        assert_equal(restored.state, make_state(1))
        assert len(said) == 1 and f"step 2 in {damaged} is damaged ({name}" in said[0]
        assert said[0].endswith("going back to step 1") and "\n" not in said[0]
        assert Checkpoints(damaged).latest() == 1
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        other.unlink(missing_ok=True)
    assert Checkpoints(damaged).restore(make_state()).step == 2


def test_no_flipped_bit_goes_unnoticed(damaged: Path):
    rng = random.Random(0)
    for path in files_of(damaged / "2"):
        for _ in range(12):
            at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
            flip(path, at, bit)
            assert checkpoint.problems(damaged / "2"), f"bit {bit} of byte {at} in {path.name}"
            flip(path, at, bit)
    assert not checkpoint.problems(damaged / "2")


def test_the_default_warning_is_pythons(damaged: Path):
    (damaged / "2" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="going back to step 1"):
        Checkpoints(damaged).restore(make_state())


def test_a_given_step_is_not_replaced_by_another(damaged: Path):
    (damaged / "2" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step 2: manifest.json: expected a file, found none"):
        Checkpoints(damaged).restore(make_state(), 2)
    with pytest.raises(CheckpointError, match="step 9: expected a folder, found none"):
        Checkpoints(damaged).restore(make_state(), 9)


def test_all_steps_damaged_is_an_error_that_names_each(damaged: Path):
    (damaged / "1" / "manifest.json").unlink()
    shutil.rmtree(damaged / "2" / "state")
    with pytest.raises(CheckpointError) as error:
        Checkpoints(damaged).restore(make_state())
    assert "step 2: state/" in str(error.value) and "step 1: manifest.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_steps_are_removed_before_the_next_save(damaged: Path):
    flip(damaged / "2" / "metrics" / "metrics")
    (damaged / "9.orbax-checkpoint-tmp").mkdir()
    said: list[str] = []
    with Checkpoints(damaged, warn=said.append) as store:
        assert store.best_step() == 1
        store.save(2, make_state(22), best=0.75)
        store.save(3, make_state(3), best=0.1)
    assert len(said) == 1 and "is removed" in said[0]
    assert sorted(path.name for path in damaged.iterdir()) == ["2", "3"]
    assert_equal(store.restore(make_state(), 2).state, make_state(22))


def test_a_step_of_a_newer_format_is_neither_read_nor_removed(damaged: Path):
    content = json.loads((damaged / "2" / "manifest.json").read_text())
    (damaged / "2" / "manifest.json").unlink()
    manifest.write(damaged / "2", {k: v for k, v in content.items() if k not in ("files", "sha256")} | {"format": 99})
    store = Checkpoints(damaged)
    for act in (lambda: store.restore(make_state()), lambda: store.save(3, make_state())):
        with pytest.raises(CheckpointError, match="expected format 1 or older, got 99; upgrade adapters_jax"):
            act()
    assert store.steps() == [1, 2]


def test_a_step_under_another_number_is_damaged(damaged: Path):
    (damaged / "2").rename(damaged / "7")
    with pytest.warns(UserWarning, match="expected step 7, got 2"):
        assert Checkpoints(damaged).restore(make_state()).step == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(step=jnp.float32(0)), r"expected step float32\[\], got int32\[\]"),
        (lambda s: s._replace(key=s.key[:2]), r"expected key uint32\[2\], got uint32\[4\]"),
        (lambda s: s._replace(opt_state=()), r"expected none, got opt_state/.* float32\[2, 3, 4\]"),
        (lambda s: s._replace(trained={"new": s.step}), r"expected trained/new int32\[\], got none"),
        (lambda s: jax.tree.map(lambda x: x.astype("bfloat16"), s), r"and \d+ more"),
    ],
)
def test_another_template_is_refused_with_both_sides_shown(two_steps: Path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoints(two_steps).restore(change(make_state()))
    assert "of another model or optimiser" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_ranks_nothing_is_refused(tmp_path: Path, score: float):
    with pytest.raises(CheckpointError, match="score of step 1: expected a finite number"):
        Checkpoints(tmp_path).save(1, make_state(), best=score)


def test_typed_keys_and_too_few_steps_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"key is a random key; save jax.random.key_data"):
        Checkpoints(tmp_path).save(1, {"key": jax.random.key(0)})
    with pytest.raises(CheckpointError, match="max_to_keep: expected at least 2"):
        Checkpoints(tmp_path, max_to_keep=1)


def test_the_other_interface_of_orbax_reads_a_step(two_steps: Path):
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = v1.load(two_steps / "2", checkpointable_name="state")
    state = make_state(2)
    assert_equal(stored["trained"]["adapters"], state.trained["adapters"])
    assert_equal(stored["opt_state"]["inner_states"]["adapter"]["inner_state"]["0"]["mu"]["backbone"]["norm"],
                 np.zeros(3, np.float32))  # fmt: skip
