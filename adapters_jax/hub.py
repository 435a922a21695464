"""Repositories of the hub (huggingface.co, or where HF_ENDPOINT points), fetched at a commit and verified, and written.

A file of the hub is named by its content: sha256 where it is large, git's sha1 where it is small. The cache keeps these
names, so that what was fetched, now or long ago, is checked against them before use.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

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
    _verify(folder, error, what)
    return folder, folder.name


def listing(repo: str, revision: str) -> list[str]:
    """Names of all files of a repository at a commit; [] where they cannot be had."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # only hints are made of it
        return []


def push(folder: Path, repo: str, private: bool, message: str) -> str:
    """Writes a folder's files to a repository in one commit; it is made if it is not there.

    Args:
        folder: every plain file of it and below it.
        repo: user/name.
        private: whether a new repository is seen by its owner alone.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        ConfigError: in one line, where it fails; nothing is written then.
    """
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url)
    except Exception as reason:  # huggingface_hub raises what its HTTP library raises
        if _status(reason) in (401, 403) or isinstance(reason, hub.LocalTokenNotFoundError):
            raise ConfigError(f"{PREFIX}{repo}: not pushed, not open to you; {LOG_IN} write to it") from reason
        raise ConfigError(f"{PREFIX}{repo}: not pushed ({_one_line(reason)}); try again") from reason


def _verify(folder: Path, error: type[AdaptersJaxError], what: str) -> None:
    """Refuses files that are not what the hub named them."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            continue  # a cache on a disk without links keeps no names
        named = Path(os.readlink(path)).name
        kind = {64: "sha256", 40: "sha1"}.get(len(named)) if re.fullmatch(r"[0-9a-f]+", named) else None
        if kind is None:
            continue
        running = hashlib.new(kind, b"" if kind == "sha256" else b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                running.update(part)
        found = running.hexdigest()
        if found != named:
            raise error(
                f"{what}: {path.name}: expected the content that the hub names {named}, got {found}: changed or "
                f"damaged on the way; delete {path.resolve()} and start again"
            )


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
