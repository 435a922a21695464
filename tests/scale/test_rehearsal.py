"""`train.rehearse` compiles a job for TPU topologies; without libtpu it says what to install."""

import importlib.util
import re

import jax
import pytest

import adapters_jax as aj
from adapters_jax.bert import weights
from adapters_jax.sharding import Layout, make_mesh
from adapters_jax.training.rehearsal import rehearse
from adapters_jax.training.settings import Settings
from tests.methods.tiny import THREE, TINY
from tests.refusal import refused
from train import rehearse as command

HERE = ["--task=mnli", "--method=houlsby", "--batch-size=64", "--max-length=64"]
NO_LIBTPU = importlib.util.find_spec("libtpu") is None


def test_what_is_missing_or_unknown(capsys: pytest.CaptureFixture):
    run = lambda *more: refused(capsys, lambda: command.main([*HERE, *more]))
    assert "--topology: expected chips such as v5e:16x16, got none" in run()
    assert "unknown chip 'v9'" in run("--topology=v9:2x2")
    assert "--slices: expected at least 1, got 0" in run("--topology=v5e:2x2", "--slices=0")
    assert "unknown configuration 'bert-huge'" in run("--topology=v5e:2x2", "--backbone-config=bert-huge")
    if NO_LIBTPU:
        assert "pip install 'adapters-jax[rehearse]'" in run("--topology=v5e:2x2")


def test_the_programs_of_a_run_on_the_device_at_hand():
    model = aj.Model(TINY, aj.Houlsby(bottleneck=4), THREE)
    layout = Layout(make_mesh("data=1", jax.devices()[:1]))
    settings = Settings(lr=1e-3, steps=9, batch_size=6, eval_batch_size=5, max_length=16)
    found = rehearse(model, weights.abstract(TINY), settings, layout, "counter_hash")
    assert (found.train.rows, found.evaluation.rows, found.train.tokens) == (6, 5, 16)
    frozen = model.summary(weights.abstract(TINY))
    assert found.held["weights"] == 4 * (frozen.backbone - frozen.backbone_trained)
    assert found.held["trained"] == 4 * frozen.trained
    assert 8 * frozen.trained <= found.held["optimizer"] <= 8 * frozen.trained + 64
    assert found.train.peak is not None and found.train.peak > sum(found.held.values())
    assert found.evaluation.flops / 5 < found.train.flops / 6 < 3 * found.evaluation.flops / 5
    assert not found.train.problem


@pytest.mark.slow
@pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed: `make rehearse` installs and uses it")
@pytest.mark.parametrize(
    ("topology", "more", "expected"),
    [
        ("v5e:16x16", ["--dtype=bfloat16", "--batch-size=256"], "256 x TPU v5e"),
        ("v6e:4x4", ["--slices=2", "--mesh=data=-1,fsdp=2"], "32 x TPU v6e (v6e:4x4, 2 slices), mesh data 16, fsdp 2"),
    ],
)
def test_topologies(topology: str, more: list[str], expected: str, capfd: pytest.CaptureFixture):
    command.main([*HERE, "--backbone-config=bert-large", f"--topology={topology}", *more])
    told = capfd.readouterr().out
    assert told.startswith(expected)
    assert told.count(": fits") == 2
    assert told.count("network ") == (2 if "slices" in str(more) else 0)
    megabytes = lambda pattern: float(re.search(rf"{pattern} ([\d.,]+) MB", told)[1].replace(",", ""))
    trained = megabytes("trained")
    if "slices" not in str(more):
        # What is trained is summed over all rows, once a step: 2 bytes for each parameter and a few sums.
        assert trained / 2 == pytest.approx(megabytes(r"all-reduce along data: \d+ a step,"), rel=0.05)
    else:
        # Each chip exchanges its share of the sum with its counterpart, and a few sums besides.
        between = megabytes(r"all-reduce along data between slices: \d+ a step,")
        assert trained / 16 <= between <= trained
        assert "along fsdp" in told
