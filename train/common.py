"""What training jobs share: what is checked early, where to start, what is written down, how it is shown."""

import dataclasses
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import manifest, trees
from adapters_jax.artefact import read_method
from adapters_jax.bert.backbone import locate, read_config
from adapters_jax.data import Source, Splits, glue, take
from adapters_jax.data.named import open_task
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods.adapter_drop import drop_of, without_layers
from adapters_jax.methods.wrapper import Wrapper
from adapters_jax.sharding import RULES, SHARDED_ADAPTERS, Layout, make_mesh
from adapters_jax.training.fit import Report
from adapters_jax.training.processes import is_first
from adapters_jax.types import Tree
from train.flags import ROBUST, Config


def method_for(config: Config) -> aj.Method:
    """The method that the flags come to: left out of layers, on top of another adapter, or kept as it is.

    Raises:
      AdapterError: `--on` is no adapter.
      ConfigError: the wrapped method cannot be what is asked for.
    """
    flags, method = config.flags, config.method
    if flags.drop is not None and getattr(method, "layer_norms", False):
        method = dataclasses.replace(method, layer_norms=False)  # all tasks share them in the layers left out
    if flags.on is not None:
        method = aj.Stack((aj.Frozen(read_method(flags.on)), method))
    if flags.drop is not None:
        robust = flags.drop == ROBUST
        method = aj.AdapterDrop(method, drop=0 if robust else int(flags.drop), robust=robust)
    if flags.on is not None and flags.init_adapter is not None:
        raise ConfigError("--on: expected a fresh adapter on it, got --init-adapter too, which has all leaves")
    if flags.freeze_adapter and flags.init_adapter is None:
        raise ConfigError("--freeze-adapter: expected --init-adapter, whose leaves are to be kept as they are")
    return aj.Frozen(method) if flags.freeze_adapter else method


def layout_of(config: Config) -> Layout | None:
    """Where parameters and batches go; None: to the only device that there is.

    Raises:
      ConfigError: sizes that do not suit the devices.
    """
    flags = config.flags
    if flags.mesh is None and jax.device_count() == 1:
        return None
    mesh = make_mesh(flags.mesh or "data=-1")
    if mesh.size < jax.device_count():
        print(f"--mesh={flags.mesh}: uses {mesh.size} of {jax.device_count()} devices", file=sys.stderr)
    return Layout(mesh, SHARDED_ADAPTERS if flags.shard_adapters else RULES)


def load_backbone(config: Config, method: aj.Method, layout: Layout | None = None) -> aj.Backbone:
    """The backbone, laid out, once it is known to suit the method and to have enough positions.

    Raises:
      BackboneError: files that are missing or damaged.
      ConfigError: a method that does not fit, or `--max-length` above the positions.
    """
    flags = config.flags
    folder, _ = locate(flags.backbone, flags.revision)
    bert = read_config(folder)
    limit = aj.Model(bert, method, aj.Regression()).max_length  # whatever the head
    if flags.max_length > limit:
        raise ConfigError(
            f"--max-length: expected at most the {limit} positions of {flags.backbone}, got {flags.max_length}"
        )
    quantize = None if flags.quantize == "none" else flags.quantize
    backbone = aj.load_backbone(
        flags.backbone,
        dtype=flags.dtype,
        quantize=quantize,
        revision=flags.revision,
        place=None if layout is None else layout.leaf,
    )
    _ = backbone.tokenizer  # read here, so that one that is missing shows now
    return backbone


def keep_programs(folder: Path) -> None:
    """Compiled steps go to disk, so that a resumed run, another seed or another rate need not compile them again.

    Those for CPUs by host name, since a program compiled for one machine's processor may not run on another's; all
    hosts of a pod share theirs, which JAX writes from the first alone.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        whose = platform.node() if jax.default_backend() == "cpu" else jax.default_backend()
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs" / whose))
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def head_for(train: Source) -> Any:
    """The head that the rows' labels ask for; a regression's is told how they are spread."""
    if train.features.kind == "classification":
        return aj.Classification(labels=train.features.labels)
    if train.features.kind == "multilabel":
        return aj.MultiLabel(labels=train.features.labels)
    labels = np.array([train[row]["label"] for row in range(len(train))], np.float64)
    # A few digits are enough, and the same on every machine.
    return aj.Regression(mean=round(float(labels.mean()), 4), deviation=round(float(labels.std()), 4) or 1.0)


def make_model(config: Config, method: aj.Method, backbone: aj.Backbone, head: Any) -> aj.Model:
    """The configuration's model, its method prepared for the tokenizer and the names of the classes."""
    method = _prepared(method, backbone, head)
    return aj.Model(backbone.config, method, head, dtype=config.flags.dtype, remat=config.flags.remat)


def _prepared(method: aj.Method, backbone: aj.Backbone, head: Any) -> aj.Method:
    return method.prepare(backbone.tokenize, getattr(head, "labels", ()))


def initialise(config: Config, model: aj.Model, backbone: aj.Backbone) -> Tree:
    """Fresh parameters, or those of `--init-adapter`, whose head is kept where it is the same; on those of `--on`.

    Raises:
      AdapterError: an artefact is damaged, of another backbone or of another method.
    """
    flags = config.flags
    params = model.init(jax.random.key(flags.seed), backbone.params)
    if flags.on is not None:
        lower = bare(model.method).by_name
        _, below = aj.load_adapter(flags.on, backbone)
        params["adapters"] |= {next(iter(lower)): _fitting(model, below["adapters"])}
    if flags.init_adapter is None:
        return params
    other, start = aj.load_adapter(flags.init_adapter, backbone)
    if bare(_prepared(other.method, backbone, model.head)) != bare(model.method):
        raise AdapterError(
            f"--init-adapter={flags.init_adapter}: expected an adapter of {bare(model.method)}, got {other.method}"
        )
    adapters = _fitting(model, start["adapters"])
    if missing := trees.flatten(params["adapters"]).keys() - trees.flatten(adapters).keys():
        raise AdapterError(
            f"--init-adapter={flags.init_adapter}: expected leaves for all layers of {model.method}, got an adapter "
            f"without {min(missing)}"
        )
    # A pooler that the backbone lacked was trained with the adapters, whatever the labels.
    brought = {name: part for name, part in start["head"].items() if name == "pooler" and name in params["head"]}
    head = start["head"] if other.head == model.head else params["head"] | brought
    return {"backbone": start["backbone"], "adapters": adapters, "head": head}


def bare(method: aj.Method) -> Any:
    """A method without what is around it."""
    while isinstance(method, Wrapper):
        method = method.of
    return method


def _fitting(model: aj.Model, adapters: Tree) -> Tree:
    """Leaves of all layers, but for those that the model's method is left out of."""
    return without_layers(adapters, drop_of(model.method), model.config)


def open_splits(config: Config) -> Splits:
    """The task's rows; `--train-rows` and `--eval-rows` take fixed samples, the same for every method and seed."""
    flags = config.flags
    report = lambda line: print(line, file=sys.stderr)
    splits = open_task(config.task, flags.data, flags.data_dir, config.cache_dir, report)
    evals = {suffix: take(source, flags.eval_rows) for suffix, source in splits.evals.items()}
    return dataclasses.replace(splits, train=take(splits.train, flags.train_rows), evals=evals)


def by_split(split: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is named by a set's suffix, by its whole name: "mismatched" -> "dev_mismatched"."""
    return {f"{split}_{suffix}" if suffix else split: value for suffix, value in values.items()}


def write_predictions(folder: Path, head: Any, sets: Mapping[str, Source], logits: Mapping[str, np.ndarray]) -> None:
    """dev.jsonl, dev_mismatched.jsonl: a line per row; of several processes, the first writes."""
    if not is_first():
        return
    for name, suffix in by_split("dev", {suffix: suffix for suffix in sets}).items():
        glue.write_predictions(folder / f"{name}.jsonl", sets[suffix], head.decode(logits[suffix]))


def write_submissions(
    folder: Path, task: str, head: Any, sets: Mapping[str, Source], logits: Mapping[str, np.ndarray]
) -> None:
    """MNLI-m.tsv and the like, as the leaderboard takes them; of several processes, the first writes."""
    if not is_first():
        return
    for suffix, source in sets.items():
        glue.write_submission(folder, task, suffix, source, head.predictions(logits[suffix]))


def result(
    config: Config,
    model: aj.Model,
    backbone: aj.Backbone,
    metrics: Mapping[str, float],
    report: Report,
    truncated: Mapping[str, int],
) -> dict[str, Any]:
    """What result.json holds; metrics are fractions, `seconds` those of training alone."""
    summary = model.summary(backbone.params)
    return {
        "task": config.task,
        "method": config.flags.method,
        "backbone": {
            "name": backbone.name,
            "revision": backbone.revision,
            "fingerprint": backbone.fingerprint,
            "quantization": backbone.quantize,
        },
        "seed": config.flags.seed,
        "metrics": dict(metrics),
        "truncated": dict(truncated),
        "kept_step": report.step,
        "parameters": {
            "adapter": summary.adapter,
            "head": summary.head,
            "backbone_trained": summary.backbone_trained,
            "trained": summary.trained,
            "backbone": summary.backbone,
            "share": summary.share,
        },
        "seconds": report.seconds,
        "steps": report.steps,
        "steps_per_second": report.steps_per_second,
        "rows_per_second": report.rows_per_second,
        "compile_seconds": report.compile_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": manifest.versions(),
        "devices": [device.device_kind for device in jax.devices()],
    }


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the first device, where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there includes the process that started this one
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return 1024 * int(found[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show(result: dict[str, Any], folder: Path) -> None:
    """The result as a table, and where the artefact is."""
    parameters = result["parameters"]
    trained = parameters["trained"] - parameters["head"]
    # Of several tasks, each has its own; it may have been moved away.
    artefacts = sorted(folder.glob("*/adapter")) or [folder / "adapter"]
    size = sum(path.stat().st_size for artefact in artefacts for path in artefact.glob("*"))
    rows = {name: f"{value:.4f}" for name, value in result["metrics"].items()}
    rows |= {
        "trained parameters": f"{trained:,} ({parameters['share']:.1%} of the backbone), head {parameters['head']:,}",
        "steps": f"{result['steps']:,} in {result['seconds']:.0f} s, {result['steps_per_second']:.1f} a second",
        "kept": f"step {result['kept_step']:,}",
        "truncated texts": ", ".join(f"{name} {count:,}" for name, count in result["truncated"].items()),
        "artefact": f"{', '.join(map(str, artefacts))} ({size / 1e6:.1f} MB)",
    }
    print(f"\n{result['task']}, {result['method']}, {result['backbone']['name']}, seed {result['seed']}")
    for name, value in rows.items():
        print(f"  {name:20} {value}")
