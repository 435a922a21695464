"""Weights are placed as they are read: a process holds its share of a large backbone, and a tensor besides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scale.start import QUICK, ROOT, free_port
from tests.test_quantised import write_large

WATCHED = """
import json, sys, threading, time
from pathlib import Path
sys.path.insert(0, ".")
import jax
import safetensors.numpy
import adapters_jax as aj
from adapters_jax.sharding import Layout, make_mesh
from adapters_jax.training.processes import Group, join

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

folder, address, process = sys.argv[1:]
join(Group(address, 2, int(process), heartbeat=60))
layout = Layout(make_mesh("fsdp=2"))
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)
watcher = threading.Thread(target=watch)
watcher.start()
backbone = aj.load_backbone(folder, place=layout.leaf)
jax.block_until_ready(backbone.params)
done.set()
watcher.join()
leaves = jax.tree.leaves(backbone.params)
held = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
print(json.dumps({"growth": peak[0] - before, "held": held, "fingerprint": backbone.fingerprint}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_two_processes_hold_a_half_of_bert_large_each(tmp_path: Path):
    size = write_large(tmp_path / "large")
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "large"), address]
    given = {"cwd": ROOT, "env": {"PATH": "/usr/bin:/bin"} | QUICK, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, str(number)], **given) for number in range(2)]
    try:
        found = [json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert found[0]["fingerprint"] == found[1]["fingerprint"]
    for process in found:
        # Vectors and positions are everywhere; one tensor, the word embeddings, is 125 MB.
        assert size / 2 <= process["held"] <= 0.51 * size
        assert process["growth"] <= 0.51 * size + 0.3e9, process
