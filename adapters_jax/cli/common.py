"""What the commands share: how flags are shown, and an artefact with its backbone."""

from typing import Any

import tyro

FromArtefact = tyro.conf.arg(help_behavior_hint="(default: what the artefact says)", metavar="VALUE")
Unset = tyro.conf.arg(help_behavior_hint="", metavar="VALUE")


Folders = tyro.conf.arg(metavar="A,B,...")


def load_backbone(folder: str, flags: Any) -> Any:
    """The backbone of an artefact: what its manifest names, or what the flags say."""
    import adapters_jax as aj
    from adapters_jax.artefact import read_manifest

    manifest = read_manifest(folder)
    trained_on = manifest["backbone"]
    revision = flags.revision or (None if flags.backbone else trained_on.get("revision"))
    name = flags.backbone or str(trained_on.get("name"))
    quantize = str(flags.quantize or trained_on.get("quantization") or "none")
    return aj.load_backbone(
        name,
        dtype=manifest.get("dtype") or "float32",
        quantize=None if quantize == "none" else quantize,
        revision=revision,
    )
