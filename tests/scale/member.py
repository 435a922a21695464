"""A run of the tiny job on a mesh, as one of a group of processes or alone: what tests start as a command.

    python tests/scale/member.py '{"devices": 8, "folder": "/tmp/x", "runs": [{"run": "a", "mesh": "data=8",
        "method": ["houlsby", {}], "fit": {"steps": 20}}]}'

Prints a line of JSON for each run: the losses of its steps and its metrics.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

import adapters_jax as adapters  # noqa: E402
from adapters_jax import sharding  # noqa: E402
from adapters_jax.flags import one_line_errors  # noqa: E402
from adapters_jax.testing import tiny_backbone  # noqa: E402
from adapters_jax.training import processes  # noqa: E402
from adapters_jax.training.preemption import Preempted  # noqa: E402
from tests.training.tiny_job import TASK, rows  # noqa: E402


def main(told: dict) -> None:
    jax.config.update("jax_num_cpu_devices", told["devices"])
    if "group" in told:
        processes.join(processes.Group(**told["group"]))
    for run in told["runs"]:
        print(json.dumps(fit(Path(told["folder"]), run)), flush=True)


def fit(folder: Path, told: dict) -> dict:
    """The losses of the steps, or why it stopped."""
    layout = None
    if "mesh" in told:
        rules = sharding.SHARDED_ADAPTERS if told.get("shard_adapters") else sharding.RULES
        layout = sharding.Layout(sharding.make_mesh(told["mesh"]), rules)
    made = tiny_backbone(folder / f"backbone-{jax.process_index()}", adapters.BertConfig.tiny(num_attention_heads=4))
    place = None if layout is None else layout.leaf
    backbone = adapters.load_backbone(str(made.folder), quantize=told.get("quantize"), place=place)
    name, fields = told["method"]
    method = adapters.METHODS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    model = adapters.Model(backbone.config, method, adapters.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbone.params)
    given = TASK | {"lr": 1e-3, "quiet": True, "layout": layout} | told.get("fit", {})
    out_dir = folder / told["run"]
    try:
        _, report = adapters.fit(model, params, backbone, rows(45), rows(13, 5), out_dir=out_dir, **given)
    except Preempted as stop:
        return {"stopped": str(stop)}
    adapters.save_adapter(folder / f"{told['run']}-adapter", model, report.params, backbone)
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return {"losses": losses, "metrics": report.metrics, "fingerprint": backbone.fingerprint}


if __name__ == "__main__":
    with one_line_errors():
        main(json.loads(sys.argv[1]))
