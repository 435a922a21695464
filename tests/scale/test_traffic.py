"""What data parallelism sends, and what fsdp saves, read from compiled programs of eight virtual devices."""

import json
import subprocess
import sys

import pytest

from tests.scale.start import QUICK, ROOT

PROGRAM = """
import json, sys
sys.path.insert(0, ".")
import jax
jax.config.update("jax_num_cpu_devices", 8)
import adapters_jax as aj
from adapters_jax.analysis.collectives import by_axis
from adapters_jax.bert import weights
from adapters_jax.sharding import Layout, make_mesh
from adapters_jax.training.rehearsal import rehearse
from adapters_jax.training.settings import Settings

config, name, mesh, rows = json.loads(sys.argv[1])
bert = {"base": aj.BertConfig.base, "large": aj.BertConfig.large}[config]()
method = aj.Full() if name == "full" else aj.Houlsby(bottleneck=64)
model = aj.Model(bert, method, aj.Classification(num_labels=3))
settings = Settings(lr=1e-3, steps=9, batch_size=rows, eval_batch_size=rows, max_length=32)
found = rehearse(model, weights.abstract(bert), settings, Layout(make_mesh(mesh)), "counter_hash")
sums = {" ".join(key): size for key, (_, size) in by_axis(found.train.collectives).items()}
trained = model.summary(weights.abstract(bert)).trained
print(json.dumps({"sums": sums, "trained": trained, "peak": found.train.peak, "held": found.held}))
"""


def measured(*told: object) -> dict:
    command = [sys.executable, "-c", PROGRAM, json.dumps(told)]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin"} | QUICK, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "megabytes"), [("houlsby", 9.7), ("full", 438)])
def test_data_parallelism_sends_the_trained_gradient_alone(method: str, megabytes: float):
    found = measured("base", method, "data=8", 8)
    assert found["sums"].keys() == {"all-reduce data"}
    assert found["sums"]["all-reduce data"] == pytest.approx(4 * found["trained"], rel=0.05)
    assert found["sums"]["all-reduce data"] == pytest.approx(megabytes * 1e6, rel=0.05)


@pytest.mark.slow
def test_fsdp_holds_an_eighth_of_bert_large():
    houlsby, full = (measured("large", method, "fsdp=8", 8) for method in ("houlsby", "full"))
    kernels = 4 * 24 * 12 * 1024**2
    assert houlsby["held"]["weights"] == pytest.approx(kernels / 8 + 4 * 30522 * 1024 / 8, rel=0.03)
    assert full["held"]["optimizer"] == pytest.approx(2 * full["held"]["trained"], rel=0.01)
    assert houlsby["peak"] < full["peak"]
    print(f"peak per device, MB: houlsby {houlsby['peak'] / 1e6:.0f}, full {full['peak'] / 1e6:.0f}", file=sys.stderr)
