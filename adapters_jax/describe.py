"""What a folder of ours holds, without loading it: an artefact, training checkpoints, or a run with both."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters_jax import artefact, checkpoint, manifest
from adapters_jax.errors import AdapterError

SHOWN = (
    *("method", "head", "config", "dtype", "backbone", "task", "data", "max_length", "seed", "scores"),
    *("versions", "extra", "summary", "leaves"),
)
SHOWN_OF_STEP = ("step", "score", "metrics", "versions", "extra", "leaves")


def describe(folder: str | Path) -> dict[str, Any]:
    """What an artefact, a step of training, a folder of steps or a run folder holds, as JSON values.

    Returns:
        "kind" ("adapter", "checkpoint", "checkpoints" or "run"), "folder", "problems" (what its hashes do not vouch
        for; [] if all hold), and, as far as they can be read, method, head, backbone, scores and "leaves".

    Raises:
        AdapterError: the folder is none of these.
    """
    found = _describe(Path(folder))
    try:
        render(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        # Hashes hold for what a stranger wrote, too.
        raise AdapterError(f"{folder}: its {manifest.NAME} holds values of other types than expected") from None
    return found


def _describe(where: Path) -> dict[str, Any]:
    if not where.is_dir():
        raise AdapterError(f"{where}: expected a folder, found {'a file' if where.exists() else 'none'}")
    if (where / artefact.WEIGHTS).exists():
        return _adapter(where)
    if where.name.isdigit() and (where / checkpoint.STATE).is_dir():
        return _step(where)
    if checkpoint.steps_in(where):
        return _steps(where)
    parts = {"adapter": where / "adapter", "checkpoints": where / "checkpoints"}
    found = {name: _describe(path) for name, path in parts.items() if path.is_dir() and any(path.iterdir())}
    if found:
        problems = [f"{name}: {problem}" for name, part in found.items() for problem in part["problems"]]
        return {"kind": "run", "folder": str(where), "problems": problems, **found}
    if (where / manifest.NAME).exists():
        return _adapter(where)
    raise AdapterError(
        f"{where}: expected an adapter ({artefact.WEIGHTS} and {manifest.NAME}), a folder of checkpoints or a run "
        "folder, found none of them"
    )


def render(found: Mapping[str, Any]) -> str:
    """The description as text."""
    if found["kind"] == "run":
        return "\n\n".join(render(found[name]) for name in ("adapter", "checkpoints") if name in found)
    return "\n".join(_lines(found))


def _adapter(where: Path) -> dict[str, Any]:
    problems = artefact.verify(where)
    try:
        content = artefact.read_manifest(where)
    except AdapterError:
        content = {}
    shown: dict[str, Any] = {key: content[key] for key in SHOWN if key in content}
    return {"kind": "adapter", "folder": str(where), "problems": problems, "bytes": _bytes(where), **shown}


def _step(where: Path) -> dict[str, Any]:
    problems = checkpoint.problems(where)
    try:
        content = manifest.read(where, checkpoint.FORMAT)
    except manifest.Damaged:
        content = {}
    shown: dict[str, Any] = {key: content[key] for key in SHOWN_OF_STEP if key in content}
    run = shown.get("extra", {}).get("run", {})
    shown |= {key: run[key] for key in ("method", "head", "dtype", "backbone") if key in run}
    return {"kind": "checkpoint", "folder": str(where), "problems": problems, "bytes": _bytes(where), **shown}


def _steps(where: Path) -> dict[str, Any]:
    steps = [_step(where / str(number)) for number in checkpoint.steps_in(where)]
    whole = [step for step in steps if not step["problems"]]
    newest = dict(whole[-1]) if whole else {}
    keys = ("step", "score", "metrics", "bytes", "problems")
    return newest | {
        "kind": "checkpoints",
        "folder": str(where),
        "problems": [f"{Path(step['folder']).name}: {problem}" for step in steps for problem in step["problems"]],
        "steps": [
            {key: step[key] for key in keys if key in step} | {"name": Path(step["folder"]).name} for step in steps
        ],
    }


def _bytes(where: Path) -> int:
    return sum(path.stat().st_size for path in where.rglob("*") if path.is_file())


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['folder']}: {found['kind']}"
    for name in ("method", "head"):
        if name in found:
            fields = {key: value for key, value in found[name].items() if key not in ("name", "labels")}
            shown = ", ".join(f"{key}={value}" for key, value in fields.items())
            yield f"  {name:<11} {found[name].get('name')}({shown})"
    if "labels" in found.get("head", {}):
        yield f"  {'labels':<11} {', '.join(map(str, found['head']['labels']))}"
    backbone = found.get("backbone", {})
    if isinstance(backbone, str):
        yield f"  {'backbone':<11} fingerprint {backbone}"
    elif backbone:
        revision = f", revision {backbone['revision']}" if backbone.get("revision") else ""
        quantised = f", {backbone['quantization']}" if backbone.get("quantization") else ""
        name = f"{backbone.get('name')}{revision}{quantised}"
        yield f"  {'backbone':<11} {name}, fingerprint {backbone.get('fingerprint')}"
    for name in ("task", "data", "max_length", "seed", "dtype"):
        if found.get(name) is not None:
            yield f"  {name:<11} {found[name]}"
    if found.get("scores"):
        yield f"  {'scores':<11} {', '.join(f'{name} {score:.4f}' for name, score in found['scores'].items())}"
    for step in found.get("steps", ()):
        score = "" if step.get("score") is None else f", score {step['score']:.4f}"
        state = "damaged" if step["problems"] else "whole"
        yield f"  {'step':<11} {step['name']}: {step['bytes']:,} bytes{score}, {state}"
    if "leaves" in found:
        yield from _leaves(found["leaves"])
    if "summary" in found:
        counts = found["summary"]
        yield (
            f"  {'parameters':<11} adapter {counts['adapter']:,}, head {counts['head']:,}, backbone trained "
            f"{counts['backbone_trained']:,} of {counts['backbone']:,}; share {counts['share']:.2%}"
        )
    if "versions" in found:
        yield f"  {'versions':<11} {', '.join(f'{name} {version}' for name, version in found['versions'].items())}"
    hold = "all hold" if not found["problems"] else f"{len(found['problems'])} do not hold"
    yield f"  {'hashes':<11} {hold}"
    yield from (f"    {problem}" for problem in found["problems"])


def _leaves(leaves: Mapping[str, Any]) -> Iterator[str]:
    """One line per pattern: paths that differ in the layer's number alone."""
    groups: dict[str, list[Any]] = {}
    for path, leaf in leaves.items():
        groups.setdefault(re.sub(r"/encoder/\d+/", "/encoder/*/", path), []).append(leaf)
    sizes = {pattern: sum(math.prod(leaf["shape"]) for leaf in group) for pattern, group in groups.items()}
    yield f"  {'leaves':<11} {len(leaves)}, {sum(sizes.values()):,} values"
    for pattern, group in groups.items():
        shape = "x".join(map(str, group[0]["shape"])) or "scalar"
        yield f"    {pattern}  {len(group)} x {group[0]['dtype']} {shape}"
