"""A folder's manifest.json: what the folder holds, with the sha256 and size of each of its files and of itself.

Data formats carry no checksum of their own that catches every flipped bit, so whatever is read again later
(training checkpoints, adapter artefacts) is written with a manifest and verified against it before use.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"
CARD = "README.md"
"""For people, and theirs to write on: it is not among the files that are hashed."""
MAX_BYTES = 1 << 24
"""The largest manifest read: 16 MiB, a hundred times that of fully tuned BERT-large."""


class Damaged(Exception):
    """What is wrong with a manifest: file, what was expected, what was found."""


class TooNew(Damaged):
    """A manifest as it was written, by a newer version of this library. How it is hashed is the same in all formats."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def render(content: Mapping[str, Any]) -> str:
    """The one text of `content`: sorted keys, floats exact, any alphabet as it is; NaN is refused (ValueError)."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing of it, whenever the process dies."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def listing(folder: Path) -> dict[str, Path]:
    """Name relative to the folder -> path, of everything below it that is no folder, but for manifest and card."""
    found: dict[str, Path] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path
        found.update(
            {link.relative_to(folder).as_posix(): link for link in Path(parent).iterdir() if link.is_symlink()}
        )
    for name in (NAME, CARD):
        found.pop(name, None)
    return dict(sorted(found.items()))


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that is complete otherwise.

    Args:
        folder: its files, also those in folders below, are hashed.
        content: JSON values; `format`, an integer, is required.
    """
    files = {name: {"sha256": sha256(path), "size": path.stat().st_size} for name, path in listing(folder).items()}
    body = {**content, "files": files}
    digest = hashlib.sha256(render(body).encode()).hexdigest()
    write_text(folder / NAME, render({**body, "sha256": digest}))


def read(folder: Path, known_format: int) -> dict[str, Any]:
    """The manifest of a folder, proven to be the one that was written.

    Args:
        known_format: the newest format that the caller reads.

    Raises:
        Damaged: it is missing, is no manifest, or was changed.
        TooNew: it is of a newer format.
    """
    path = folder / NAME
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"{NAME}: expected a file, found none")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise Damaged(f"{NAME}: expected at most {MAX_BYTES} bytes, got {size}")
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{NAME}: expected readable JSON, got {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise Damaged(f"{NAME}: expected an object with an integer 'format'")
    body = {key: value for key, value in content.items() if key != "sha256"}
    try:
        whole = render(content) == text
        digest = hashlib.sha256(render(body).encode()).hexdigest()
    except (ValueError, RecursionError):
        raise Damaged(f"{NAME}: expected plain JSON values, got others") from None
    if not whole or digest != content.get("sha256"):
        raise Damaged(
            f"{NAME}: was changed after it was written: expected sha256 {content.get('sha256')}, got {digest}"
        )
    if content["format"] > known_format:
        raise TooNew(
            f"{NAME}: expected format {known_format} or older, got {content['format']}; upgrade adapters_jax to read it"
        )
    return content


def problems(folder: Path, content: Mapping[str, Any], extra_files: bool = False) -> list[str]:
    """What differs between a folder and its manifest, one line per file; names only come from the folder's own list.

    Args:
        extra_files: files that the manifest does not name are no problem (nothing reads them).
    """
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        return [f"{NAME}: expected a table of 'files'"]
    found = listing(folder)
    report = [f"{name}: expected a file, found none" for name in files if name not in found]
    for name, path in found.items():
        if name not in files:
            report += [] if extra_files else [f"{name}: not in the manifest"]
        elif path.is_symlink() or not path.is_file():
            report.append(f"{name}: expected a plain file, found a link or a device")
        else:
            report += _differs(name, path, files[name])
    return report


def _differs(name: str, path: Path, entry: Mapping[str, Any]) -> list[str]:
    try:
        size = path.stat().st_size
        if size != entry.get("size"):
            return [f"{name}: expected {entry.get('size')} bytes, got {size}"]
        digest = sha256(path)
    except OSError as error:
        return [f"{name}: cannot be read, {error.strerror}"]
    if digest != entry.get("sha256"):
        return [f"{name}: expected sha256 {entry.get('sha256')}, got {digest}"]
    return []


def versions() -> dict[str, str]:
    """Of the interpreter and of the libraries that decide what stored leaves mean."""
    libraries = ("jax", "flax", "optax", "orbax-checkpoint", "safetensors", "numpy")
    own = {"python": platform.python_version(), "adapters_jax": sys.modules[__package__].__version__}
    return own | {name: importlib.metadata.version(name) for name in libraries}


def one_line(error: BaseException) -> str:
    """The error's text without line breaks, cut to a readable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def why(error: BaseException) -> str:
    """Why something could not be written, with the fix."""
    text = str(error)
    if "No space left" in text or "Disk quota exceeded" in text:
        return "the disk is full; free some space and start again"
    if isinstance(error, PermissionError) or "Permission denied" in text or "Read-only file system" in text:
        return "no permission to write there; choose another folder"
    return one_line(error)
