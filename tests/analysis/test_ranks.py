"""The ranks of an artefact of AdaLoRA: counted, shown, drawn; other artefacts are refused."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import adapters_jax as aj
from adapters_jax import cli, testing, trees
from adapters_jax.analysis.ranks import Rank, heat_map, of_artefact
from adapters_jax.errors import AdapterError

METHOD = aj.AdaLoRA(rank=4, target_rank=2, slots=("query", "ffn_in"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


def saved(folder: Path, method: aj.Method, backbone: aj.Backbone) -> Path:
    """An artefact in which layer 0 keeps a triplet of each change, layer 1 three."""
    model = aj.Model(backbone.config, method, aj.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbone.params)
    left = lambda leaf: jnp.arange(leaf.shape[-1])[None] < jnp.array([1, 3])[:, None]
    prune = lambda path, leaf: left(leaf).astype(jnp.float32) if path.endswith("/e") else leaf
    params["adapters"] = trees.map_paths(prune, params["adapters"])
    aj.save_adapter(folder, model, params, backbone)
    return folder


def test_counted_and_shown(backbone, tmp_path: Path, capsys):
    folder = saved(tmp_path / "run" / "adapter", METHOD, backbone)
    ranks = of_artefact(folder)
    assert ranks == {slot: {0: Rank(1, 4), 1: Rank(3, 4)} for slot in ("query", "ffn_in")}
    assert list(ranks) == ["query", "ffn_in"]
    figure = tmp_path / "ranks.svg"
    cli.main(["inspect", str(tmp_path / "run"), "--ranks", f"--figure={figure}"])
    assert capsys.readouterr().out == heat_map(ranks) + "\n"
    assert [line.split() for line in heat_map(ranks).splitlines()] == [
        ["query", "ffn_in", "all"],
        ["layer", "0", "1", "░░░", "1", "░░░", "2"],
        ["layer", "1", "3", "▓▓▓", "3", "▓▓▓", "6"],
        ["all", "4", "4", "8"],
        ["8", "of", "16", "triplets", "are", "left"],
    ]
    assert "ffn_in" in figure.read_text()


def test_a_part_of_a_composition_is_named(backbone, tmp_path: Path):
    folder = saved(tmp_path / "adapter", aj.compose(aj.LoRA(rank=2), METHOD), backbone)
    assert set(of_artefact(folder)) == {"adalora/query", "adalora/ffn_in"}


def test_other_artefacts_are_refused(backbone, tmp_path: Path, capsys):
    folder = saved(tmp_path / "adapter", aj.LoRA(rank=2), backbone)
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(folder), "--ranks"])
    assert end.value.code == 2
    assert "expected an adapter of adalora, got one of lora" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(folder), "--figure=x.png"])
    assert "--figure=x.png: expected --ranks" in capsys.readouterr().err
    file = folder / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError, match="expected sha256"):
        of_artefact(folder)


DEVICES = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import weights
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import init_state, make_optimizer, make_train_step

config = aj.BertConfig.tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = aj.Model(config, aj.AdaLoRA(rank=4, target_rank=1), aj.Classification(num_labels=3, dropout=0.0))
params = model.init(jax.random.key(0), weights.initialise(jax.random.key(1), config))
labels = model.labels(params)
tx, _ = make_optimizer(model, Settings(lr=1e-2, steps=8), 8, labels)
trained, frozen = trees.split(params, labels)
take = jax.jit(make_train_step(model, tx, impl="counter_hash", accumulate=2))
ends = {}
for devices in (1, 8):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    state, rest = jax.device_put((init_state(trained, tx), frozen), everywhere)
    for step in range(8):
        batch = jax.device_put(testing.fake_batch(config, rows=16, seed=step), spread)
        state, measured = take(state, rest, batch)
    assert len(jax.tree.leaves(state.trained)[0].sharding.device_set) == devices
    ends[devices] = {path: np.asarray(leaf) for path, leaf in trees.flatten(state.trained).items()}
    assert int(measured["rank"]) == 12, measured
for path, leaf in ends[1].items():
    if path.endswith("/e"):
        np.testing.assert_array_equal(ends[8][path] == 0, leaf == 0)
    np.testing.assert_allclose(ends[8][path], leaf, atol=2e-3)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_choose_the_ranks_of_one(repo: Path):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", DEVICES], cwd=repo, env=os.environ | devices, capture_output=True, text=True, timeout=600
    )
    assert found.stdout.strip().endswith("same"), found.stderr[-2000:]
