"""Size a TPU job without a TPU: `python -m train.rehearse --topology=v5e:4x4 --task=mnli --backbone-config=bert-large`.

Compiles the very steps that the job would run for the chips of a topology, on this machine (extra `rehearse`: libtpu),
and prints memory per chip, FLOPs, what goes between the chips, and the least time of a step. Exit code 1: does not fit.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from adapters_jax.data.tasks import TASKS
from adapters_jax.errors import ConfigError, unknown
from train import flags

NO_TPU = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What keeps JAX and libtpu from looking for chips on this machine, from asking a cloud for them, and from the lock
that only one process may hold where there are chips."""
Topology = tyro.conf.arg(metavar="CHIP:AxB")


@dataclasses.dataclass(frozen=True)
class Flags(flags.Flags):
    """What `python -m train.rehearse` can be told."""

    topology: Annotated[str, Topology] = ""
    """The chips of a slice: v4, v5e, v5p or v6e, and how they are arranged, as in v5e:16x16."""
    slices: int = 1
    """So many of them; the data axis goes over all."""
    backbone_config: str = "bert-base"
    """bert-base, bert-large, or the folder of a backbone; its weights are not read."""

    def task_name(self) -> str:
        if not self.topology:
            raise ConfigError("--topology: expected chips such as v5e:16x16, got none")
        if self.slices < 1:
            raise ConfigError(f"--slices: expected at least 1, got {self.slices}")
        return super().task_name()


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, report."""
    for name, value in NO_TPU.items():
        os.environ.setdefault(name, value)
    flags.start(run, argv, "train.rehearse", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Prints what the job needs; ends with exit code 1 where it does not fit."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    import adapters_jax as aj
    from adapters_jax.analysis import roofline
    from adapters_jax.bert import quant, weights
    from adapters_jax.sharding import RULES, SHARDED_ADAPTERS, Layout, make_mesh
    from adapters_jax.training.rehearsal import rehearse
    from train import common

    f = config.flags
    _, chip = roofline.chip_of(f.topology)
    bert = backbone_config(f.backbone_config)
    task = TASKS[config.task]
    head = aj.Classification(labels=task.labels) if task.labels else aj.Regression()
    model = aj.Model(bert, common.method_for(config), head, dtype=f.dtype, remat=f.remat)
    mesh = make_mesh(f.mesh or "data=-1", devices(f.topology, f.slices))
    layout = Layout(mesh, SHARDED_ADAPTERS if f.shard_adapters else RULES)
    backbone = weights.abstract(bert, pooler=bert.model_type == "bert", dtype=f.dtype)
    if f.quantize not in (None, "none"):
        backbone = quant.abstract(backbone, f.quantize)
    found = rehearse(model, backbone, flags.settings(f), layout, "rbg", f.slices)
    print(roofline.report(found, f.topology, f.slices))
    if not all(roofline.fits(program, chip) for program in (found.train, found.evaluation)):
        raise SystemExit(1)


def backbone_config(name: str) -> Any:
    """A preset, or what a folder's config.json says."""
    import adapters_jax as aj
    from adapters_jax.bert.backbone import read_config

    presets = {"bert-base": aj.BertConfig.base, "bert-large": aj.BertConfig.large}
    if name in presets:
        return presets[name]()
    if not Path(name).is_dir():
        raise ConfigError(f"--backbone-config: {unknown('configuration', name, presets)}, or give a folder")
    return read_config(Path(name))


def devices(topology: str, slices: int) -> list[Any]:
    """Descriptions of the chips.

    Raises:
      ConfigError: libtpu is not installed, or does not know the topology.
    """
    from importlib.util import find_spec

    from jax.experimental import topologies

    if find_spec("libtpu") is None:
        raise ConfigError("train.rehearse: libtpu is not installed; pip install 'adapters-jax[rehearse]'")
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **several).devices)
    except Exception as error:  # libtpu raises what its parser raises
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--topology={topology}: libtpu cannot describe these chips ({reason})") from None


if __name__ == "__main__":
    main()
