"""A tiny model on a few rows of two classes, all of one padded length, so that the tests share what is compiled."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.testing import tiny_backbone
from adapters_jax.training.preemption import Preempted

TASK: dict[str, Any] = dict(
    steps=12, batch_size=8, eval_batch_size=8, lr=1e-2, max_length=16, eval_every=3, save_every=4, log_every=1, seed=0
)


def rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """Short texts with the word that decides their class."""
    nouns = ("cat", "dog", "man", "woman")
    return [
        {
            "text": f"the {nouns[i % 4]} is {('bad', 'good')[(i // 4) % 2]}",
            "text_pair": f"a {nouns[i // 3 % 4]}",
            "label": (i // 4) % 2,
        }
        for i in range(offset, offset + count)
    ]


@dataclasses.dataclass(frozen=True)
class Job:
    """What `fit` takes, and `fit` with it."""

    model: aj.Model
    params: Any
    backbone: aj.Backbone
    train: list[dict[str, Any]]
    dev: list[dict[str, Any]]

    def fit(self, **changes: Any) -> Any:
        given = {"dev": self.dev, "quiet": True} | TASK | changes
        return aj.fit(self.model, self.params, self.backbone, self.train, **given)


def make_job(folder: Path, method: Any = None, **config: Any) -> Job:
    backbone = tiny_backbone(folder, aj.BertConfig.tiny(**config))
    model = aj.Model(backbone.config, method or aj.Houlsby(bottleneck=4), aj.Classification(num_labels=2))
    return Job(model, model.init(jax.random.key(0), backbone.params), backbone, rows(22), rows(13, 5))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run_in_process(folder: Path, work: Path, cache: Path) -> None:
    """The job, longer, as a process of its own: leaves the state and the kept parameters in final.npz."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    job = make_job(work / f"backbone-{folder.name}")
    try:
        state, report = job.fit(out_dir=folder, steps=60, eval_every=10, save_every=5)
    except Preempted:
        return
    leaves, _ = jax.tree_util.tree_flatten_with_path(tuple(state))
    named = {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves} | trees.to_layers(report.params)
    np.savez(folder / "final.npz", **{name.replace("/", "|"): np.asarray(leaf) for name, leaf in named.items()})
