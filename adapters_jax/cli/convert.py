"""`adapters-jax convert`: an adapter in another library's files, as plain weights, or on the hub."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from adapters_jax.cli.common import FromArtefact, Unset
from adapters_jax.errors import AdapterError, ConfigError

From = tyro.conf.arg(name="from")
Names = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write an adapter in another format, fold it into plain BERT weights, or push it to the hub."""

    from_: Annotated[str, From]
    """A folder of ours, of peft's or of AdapterHub's, or hf:user/name@revision."""
    to: Literal["native", "peft", "adapterhub", "hf"] | None = None
    """hf: plain BERT for transformers, with the adapter folded into its weights."""
    out: Annotated[str | None, Unset] = None
    """A new or empty folder; with --allow-pickle and without --to it may be left out: beside the pickles."""
    backbone: Annotated[str | None, FromArtefact] = None
    """The backbone it was trained on: a hub id, a local folder, or `minilm`."""
    revision: Annotated[str | None, FromArtefact] = None
    """Commit, tag or branch of the backbone's hub id."""
    quantize: Annotated[Literal["nf4", "int8", "none"] | None, FromArtefact] = None
    """How the kernels of the backbone's layers are kept; none: the float backbone, which other formats ask for."""
    labels: Annotated[tuple[str, ...], Names] = ()
    """Names of the classes, in order, where the files have none: peft's, and some of AdapterHub's."""
    allow_pickle: bool = False
    """Read weights that are pickles (.bin), which can run code: only those of people you trust. Needs torch."""
    push_to_hub: Annotated[str | None, Unset] = None
    """user/name: write the folder and a model card there; without --to, in our format."""
    dry_run: bool = False
    """With --push-to-hub: write what would be pushed into --out, and push nothing."""
    private: bool = False
    """With --push-to-hub: only you may see the repository."""
    license: str = "unknown"
    """With --push-to-hub: the hub's identifier of a licence, such as apache-2.0, or other."""


def convert(flags: Convert) -> None:
    """Prints what was written as one JSON object."""
    from adapters_jax import card, hub
    from adapters_jax.interop import pickles
    from adapters_jax.interop.sources import opened

    to = flags.to or ("native" if flags.push_to_hub else None)
    out = None if flags.out is None else Path(flags.out)
    _check(flags, to, out)
    if flags.push_to_hub:
        hub.parse(flags.push_to_hub)
        card.check_license(flags.license)
    with opened(flags.from_, flags.allow_pickle) as source, tempfile.TemporaryDirectory() as scratch:
        if flags.allow_pickle:
            if to is None:
                if flags.quantize:
                    raise ConfigError("--quantize: expected --to beside it, got --allow-pickle alone")
                written = pickles.to_safetensors(source.folder, out)
                return _tell(out=str(out or source.folder), written=[path.name for path in written])
            plain = Path(scratch, "plain")
            pickles.to_safetensors(source.folder, plain)
            source = dataclasses.replace(source, folder=plain)
        assert to is not None
        target = out or Path(scratch, "out")
        content = _written(flags, source, to, target)
        told: dict[str, Any] = {"out": flags.out} if flags.out else {}
        told |= {"from": source.origin(), "to": to, "method": content["method"]["name"]}
        if flags.push_to_hub:
            told |= _pushed(flags, target, to, content)
    _tell(**told)


def _check(flags: Convert, to: str | None, out: Path | None) -> None:
    for name, default in (("dry_run", False), ("private", False), ("license", "unknown")):
        if getattr(flags, name) != default and not flags.push_to_hub:
            raise ConfigError(f"--{name.replace('_', '-')}: expected --push-to-hub=user/name beside it")
    if to is None and not flags.allow_pickle:
        raise ConfigError("--to: expected one of native, peft, adapterhub, hf, got nothing")
    local = not flags.from_.startswith("hf:")
    if out is None and not (flags.push_to_hub and not flags.dry_run) and not (to is None and local):
        raise ConfigError("--out: expected a folder to write, got nothing")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out={out}: expected a new or empty folder, found {'files in it' if out.is_dir() else 'a file'}"
        )


def _written(flags: Convert, source: Any, to: str, target: Path) -> dict[str, Any]:
    """Writes the folder; what is known of the adapter, as a manifest says it."""
    from adapters_jax import artefact
    from adapters_jax.interop import save_adapterhub, save_hf, save_peft
    from adapters_jax.interop.sources import read

    is_theirs = source.kind in ("peft", "adapterhub")
    content = {} if is_theirs else artefact.read_manifest(source.folder)
    if to == "native" and content:
        if flags.labels:
            raise ConfigError(f"{source.name}: labels: expected none, since its own files name the classes")
        if flags.quantize:
            raise ConfigError(f"{source.name}: --quantize: expected none, since its files are copied as they are")
        return _copied(source.folder, target, content)
    backbone = _backbone(flags, source, content)
    model, params = read(source, backbone, labels=flags.labels)
    if to == "native":
        artefact.save_adapter(target, model, params, backbone, extra={"converted_from": source.origin()})
        artefact.load_adapter(target, backbone)
        return artefact.read_manifest(target)
    writers: dict[str, Callable[..., None]] = {"peft": save_peft, "adapterhub": save_adapterhub, "hf": save_hf}
    writers[to](target, model, params, backbone)
    return content or artefact.identity(model, backbone)


def _copied(folder: Path, target: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Our own files, whole by their hashes, as they are."""
    from adapters_jax import artefact, card, manifest

    found = artefact.verify(folder)
    if found:
        raise AdapterError(f"{folder}: {'; '.join(found[:3])}; copy it anew from where it was trained")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in (artefact.WEIGHTS, manifest.NAME):
            shutil.copyfile(folder / name, target / name)
        manifest.write_text(target / card.NAME, card.render(content, "native", None))
    except OSError as error:
        raise AdapterError(f"{target}: cannot be written: {manifest.why(error)}") from error
    return content


def _backbone(flags: Convert, source: Any, content: dict[str, Any]) -> Any:
    """What the flags say, or what the folder names."""
    import adapters_jax as aj
    from adapters_jax.interop.folders import read_config

    if content:
        named, revision = content["backbone"].get("name"), content["backbone"].get("revision")
    else:
        config = source.folder / "adapter_config.json"
        found = read_config(config) if config.is_file() else {}
        named, revision = found.get("base_model_name_or_path", found.get("model_name")), found.get("revision")
    name = flags.backbone or named
    if not isinstance(name, str) or not name or not isinstance(revision, str | None):
        raise ConfigError(f"{source.name}: names no backbone, expected --backbone: a hub id, a local folder, or minilm")
    quantize = flags.quantize or content.get("backbone", {}).get("quantization")
    return aj.load_backbone(
        name,
        dtype=content.get("dtype") or "float32",
        quantize=None if quantize == "none" else quantize,
        revision=flags.revision or (None if flags.backbone else revision),
    )


def _pushed(flags: Convert, folder: Path, to: str, content: dict[str, Any]) -> dict[str, Any]:
    """Writes the card, and pushes the folder unless it is a dry run."""
    from adapters_jax import card, hub, manifest
    from adapters_jax.interop import hf
    from adapters_jax.interop.sources import stale

    repo, _ = hub.parse(str(flags.push_to_hub))
    names = {cls.name: name for cls, name in hf.ARCHITECTURES.items()}
    architecture = names[content["head"]["name"]] if to == "hf" else ""
    manifest.write_text(folder / card.NAME, card.render(content, to, repo, flags.license, architecture))
    if flags.dry_run:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return {"repository": repo, "pushed": False, "files": files}
    message = f"{content['method']['name']}, written by adapters_jax"
    address, deleted = hub.push(folder, repo, flags.private, message, stale)
    return {"repository": repo, "pushed": address, "deleted": deleted}


def _tell(**found: Any) -> None:
    print(json.dumps(found, ensure_ascii=False))
