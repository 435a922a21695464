"""Repositories of the hub (huggingface.co, or where HF_ENDPOINT points), fetched at a commit and verified, and written.

A file of the hub is named by its content: sha256 where it is large, git's sha1 where it is small. The cache keeps these
names, in links, so that what was fetched, now or long ago, is checked against them before use; on disks without links
the hub is asked for them.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.errors import AdaptersJaxError, ConfigError

PREFIX = "hf:"
"""What marks a repository where a folder could stand as well: hf:user/name, hf:user/name@revision."""

LOG_IN = "log in (hf auth login, or HF_TOKEN in the environment) as someone who may"


def parse(source: str) -> tuple[str, str | None]:
    """(user/name, branch, tag or commit) of "hf:user/name@revision"; the revision may be left out.

    Raises:
        ConfigError: it is none.
    """
    repo, at, revision = source.removeprefix(PREFIX).partition("@")
    name = r"[A-Za-z0-9][\w.-]{0,95}"
    if not re.fullmatch(rf"{name}/{name}", repo) or bool(at) != bool(revision):
        raise ConfigError(f"{source}: expected {PREFIX}user/name or {PREFIX}user/name@revision")
    return repo, revision or None


def fetch(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    error: type[AdaptersJaxError],
    what: str,
    fix: str = "",
) -> tuple[Path, str]:
    """Fetches a repository's files into the hub's cache; what is there already is not fetched again.

    Args:
        repo: user/name.
        revision: branch, tag or commit; None: the main branch.
        patterns: of the names of the files that are wanted.
        error: raised with one line where it fails.
        what, fix: begin and end that line.

    Returns:
        (the folder, whose files are links into the cache; the commit).
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except hub.HFValidationError:
        raise error(f"{what}: neither a folder nor a name on the hub{fix}") from None
    except hub.RevisionNotFoundError as reason:
        raise error(f"{what}: the hub has no revision {revision!r}{fix}") from reason
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as reason:
        told = _one_line(reason)
        raise error(f"{what}: the hub cannot be reached and no whole copy is cached ({told}){fix}") from reason
    except Exception as reason:  # huggingface_hub raises what its HTTP library raises
        if _status(reason) in (401, 403) or isinstance(reason, hub.RepositoryNotFoundError):
            raise error(f"{what}: not on the hub, or not open to you; {LOG_IN} read it{fix}") from reason
        raise error(
            f"{what}: fetching broke off ({_one_line(reason)}); start again, it goes on where it stopped{fix}"
        ) from reason
    _verify(folder, chosen(folder, patterns), repo, error, what)
    return folder, folder.name


def chosen(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that `fetch` with these patterns means: other programs fetch into the same cache."""
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [folder / name for name in filter_repo_objects(names, allow_patterns=list(patterns))]


def listing(repo: str, revision: str) -> list[str]:
    """Names of all files of a repository at a commit; [] where they cannot be had."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # only hints are made of it
        return []


def push(
    folder: Path,
    repo: str,
    private: bool,
    message: str,
    stale: Callable[[Collection[str], Collection[str]], list[str]],
) -> tuple[str, list[str]]:
    """Writes a folder's files to a repository in one commit; it is made if it is not there.

    Args:
        folder: every plain file of it and below it.
        repo: user/name.
        private: nobody but its owner may see it.
        message: of the commit.
        stale: (names there, names that are pushed) -> those to delete in the same commit.

    Returns:
        (the commit's address, the names that were deleted).

    Raises:
        ConfigError: in one line, where it fails or the repository is public and shall not be; no file is written then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub import errors as hub

    api, name = HfApi(), f"{PREFIX}{repo}"
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ConfigError(
                f"{name}: not pushed: --private: expected a new or a private repository, found a public one; make it "
                "private in its settings, choose another name, or leave --private out"
            )
        old = stale(api.list_repo_files(repo), files)
        changes: list[Any] = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in old]
        changes += [CommitOperationAdd(path_in_repo=path, path_or_fileobj=files[path]) for path in files]
        return str(api.create_commit(repo, changes, commit_message=message).commit_url), old
    except ConfigError:
        raise
    except Exception as reason:  # huggingface_hub raises what its HTTP library raises
        if _status(reason) in (401, 403) or isinstance(reason, hub.LocalTokenNotFoundError):
            raise ConfigError(f"{name}: not pushed, not open to you; {LOG_IN} write to it") from reason
        raise ConfigError(f"{name}: not pushed ({_one_line(reason)}); try again") from reason


def _verify(folder: Path, files: Sequence[Path], repo: str, error: type[AdaptersJaxError], what: str) -> None:
    """Refuses files that are not what the hub named them."""
    named = {path: _linked(path) for path in files}
    if None in named.values():
        there = _content_names(repo, folder.name)
        named = {path: name or there.get(path.relative_to(folder).as_posix()) for path, name in named.items()}
    for path, name in named.items():
        if name is None:
            continue
        kind = "sha256" if len(name) == 64 else "sha1"
        running = hashlib.new(kind, b"" if kind == "sha256" else b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                running.update(part)
        found = running.hexdigest()
        if found != name:
            raise error(
                f"{what}: {path.name}: expected the content that the hub names {name}, got {found}: changed or "
                f"damaged on the way; delete {path.resolve()} and start again"
            )
    unnamed = [path.name for path, name in named.items() if name is None]
    if unnamed:
        logging.getLogger(__name__).warning(
            "%s: not checked against the hub's names of their content: %s; the cache keeps none on a disk without "
            "links, and the hub did not tell them",
            what,
            ", ".join(unnamed),
        )


def _linked(path: Path) -> str | None:
    """The hub's name of a file's content, by the cache's link; None where it is no such link."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", name) else None


def _content_names(repo: str, commit: str) -> Mapping[str, str]:
    """File -> the hub's name of its content; {} where the hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = list(HfApi().list_repo_tree(repo, recursive=True, revision=commit))
    except Exception:  # whatever the HTTP library raises; the caller warns
        return {}
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
