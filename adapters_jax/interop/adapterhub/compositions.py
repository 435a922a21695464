"""adapter_setup.json: which adapters of a folder work together, how, and which head is theirs.

    {"adapter_setup": {"type": "Fuse", "children": [{"type": "single", "children": ["a"]}, ...]}, "head_setup": "NAME"}

The names of folders are looked up in the list of those that are there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters_jax.errors import AdapterError
from adapters_jax.interop import folders
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.rules import Kind, Refusal, refuse
from adapters_jax.methods.composition import MOST

SETUP = "adapter_setup.json"

Files = dict[str, Any]
"""Name of a file -> its tensors or its JSON object."""


def _single(child: Any) -> str | None:
    """The adapter's name; None: it is a composition itself."""
    own = child.get("children") if isinstance(child, dict) and child.get("type") == "single" else None
    return own[0] if isinstance(own, list) and len(own) == 1 and isinstance(own[0], str) else None


def _count(own: tuple[Any, list]) -> bool:
    named = [_single(child) for child in own[1]]
    return not 1 <= len(named) <= MOST or len(set(named)) < len(named)


COMPOSED = (
    Refusal(
        "Parallel, Split, BatchSplit, Average, MultiTask",
        "we have Stack and Fuse alone",
        lambda own: own[0] not in ("Stack", "Fuse"),
        lambda own: own[0],
    ),
    Refusal(
        "a composition in another one, but for a Fuse that is all of a Stack",
        "load its parts by themselves",
        lambda own: any(_single(child) is None for child in own[1]),
        lambda own: next(child for child in own[1] if _single(child) is None),
    ),
    Refusal(
        f"other than 1 to {MOST} adapters, each once",
        "ours are told apart by their names",
        _count,
        lambda own: [_single(child) for child in own[1]],
    ),
)
HEADS = Refusal(
    "several heads (head_setup)",
    "a model of ours has one; name one in the file",
    lambda head: head not in (None, True, False) and not isinstance(head, str),
    lambda head: head,
)
KIND = Kind("setups (adapter_setup.json)", (), None, None, not_read=(*COMPOSED, HEADS))


def below(folder: Path, name: Any) -> Path:
    """The folder of that name in another.

    Raises:
        AdapterError: there is none.
    """
    found = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}
    if not isinstance(name, str) or name not in found:
        raise AdapterError(f"{folder}: expected a folder {name!r:.60}, found {', '.join(sorted(found)[:8]) or 'none'}")
    return found[name]


def described(folder: Path) -> tuple[str, list[str], Any]:
    """(type, names of the adapters, head) of an adapter_setup.json: "Stack" or "Fuse".

    Raises:
        AdapterError: another composition, or a nested one.
    """
    where = folder / SETUP
    content = folders.read_config(where)
    setup = content.get("adapter_setup")
    if not isinstance(setup, dict) or not isinstance(setup.get("children"), list):
        raise AdapterError(f"{where}: expected an adapter_setup with its children, got {setup!r:.60}")
    kind, children = setup.get("type"), setup["children"]
    first = children[0] if children else None
    if kind == "Stack" and len(children) == 1 and isinstance(first, dict) and first.get("type") == "Fuse":
        kind, children = "Fuse", first.get("children")
    children = children if isinstance(children, list) else [children]
    refuse(COMPOSED, (kind, children), where)
    return str(kind), [str(_single(child)) for child in children], content.get("head_setup")


def head_folder(folder: Path) -> Path:
    """Where the head of a folder stands, if there is one."""
    if not (folder / SETUP).exists():
        return folder
    kind, named, head = described(folder)
    refuse((HEADS,), head, folder / SETUP)
    if head is None or head is False:
        return below(folder, named[-1] if kind == "Stack" else ",".join(named))
    return folder if head is True else below(folder, head)


def write(kind: str, named: Sequence[str], head: str | None) -> dict[str, Files]:
    """The top folder's own file."""
    children = [{"type": "single", "children": [name]} for name in named]
    setup = {"type": kind, "children": children}
    return {"": {SETUP: {"adapter_setup": setup, "head_setup": head, "version": files.VERSION}}}
