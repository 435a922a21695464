"""Whether an artefact, a model and a backbone belong together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters_jax import trees
from adapters_jax.errors import AdapterError
from adapters_jax.types import Tree


def refuse_other_backbone(where: Path, content: Mapping[str, Any], backbone: Any) -> None:
    """Raises AdapterError where an artefact was trained on another backbone, or in another configuration of it."""
    trained = content["backbone"]
    if trained.get("fingerprint") != backbone.fingerprint:
        raise AdapterError(
            f"{where}: expected the backbone it was trained on, {trained.get('name')!r} with fingerprint "
            f"{trained.get('fingerprint')}, got {str(backbone.name)!r} with {backbone.fingerprint}; load that backbone"
        )
    stored, own = content["config"], backbone.config.to_dict()
    differences = [
        f"{name} {stored.get(name)!r} and {own.get(name)!r}"
        for name in dict.fromkeys([*stored, *own])
        if stored.get(name) != own.get(name)
    ]
    if differences:
        raise AdapterError(
            f"{where}: expected its own BertConfig, got another; its and the backbone's: {', '.join(differences[:5])}; "
            "load that backbone"
        )


def refuse_other_leaves(where: Path, listed: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises AdapterError where the manifest lists other leaves than the model has."""
    report = [
        f"{name}: expected {wanted.get(name, 'no such leaf')}, got {listed.get(name, 'no such leaf')!s:.120}"
        for name in dict.fromkeys([*wanted, *listed])
        if listed.get(name) != wanted.get(name)
    ]
    if report:
        more = f"; and {len(report) - 2} more" if len(report) > 2 else ""
        raise AdapterError(
            f"{where}: its leaves are not those of its method, head and backbone: {'; '.join(report[:2])}{more}"
        )


def refuse_other_paths(where: Path, params: Tree, template: Tree) -> None:
    """Raises AdapterError where params have other leaves than the model's own."""
    found, wanted = trees.flatten(params), trees.flatten(template)
    report = [f"missing {path}" for path in wanted if path not in found]
    report += [f"unexpected {path}" for path in found if path not in wanted]
    if report:
        raise AdapterError(f"{where}: not saved, expected the model's own params, got {'; '.join(report[:5])}")


def refuse_changed(where: Path, rest: Tree, backbone: Tree) -> None:
    """Raises AdapterError where a frozen leaf is not the backbone's own: its change would be lost."""
    own = trees.flatten(backbone)
    for path, leaf in trees.flatten(rest).items():
        if leaf is not own[path] and not trees.same(leaf, own[path]):
            raise AdapterError(
                f"{where}: not saved, backbone/{path} differs from the backbone's, and the method does not train it; "
                "start from this backbone's params"
            )
