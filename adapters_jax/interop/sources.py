"""Where an adapter may come from: a folder or a repository of the hub, in our format, peft's or AdapterHub's."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from adapters_jax import artefact, hub, manifest
from adapters_jax.bert.backbone import Backbone
from adapters_jax.errors import AdapterError, AdaptersJaxError, ConfigError
from adapters_jax.interop import folders, hf, pickles
from adapters_jax.methods import Method
from adapters_jax.model import Model
from adapters_jax.types import Tree

FILES = folders.NAMES
"""What is fetched of a repository: nothing else is read, and no pickle is, unless it is asked for."""

BACKBONE = (hf.CONFIG, hf.WEIGHTS, *hf.TOKENIZER)
"""What is fetched beside pickles, which may be a backbone's; and what a folded model is pushed as."""

SETUP = "adapter_setup.json"
"""AdapterHub's description of several adapters, each in a folder of its own."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder with plain files.

    Attributes:
        folder: where they are.
        kind: "native", "peft", "adapterhub", or "none".
        name: as it was asked for, a repository with its commit.
        revision: the commit; None: it was a local folder.
    """

    folder: Path
    kind: str
    name: str
    revision: str | None = None

    def origin(self) -> dict[str, str | None]:
        """For the manifest of what is made of it."""
        return {"format": self.kind, "name": self.name, "revision": self.revision}


def load_adapter(
    source: str | Path,
    backbone: Backbone,
    methods: Mapping[str, type[Method]] | None = None,
    *,
    labels: Sequence[str] = (),
) -> tuple[Model, Tree]:
    """The model of an adapter and its parameters on this backbone, whichever library wrote it.

    Args:
        source: a folder, or "hf:user/name@revision" of the hub (branch, tag or commit; it may be left out). An
            artefact of ours, an adapter of peft's or of AdapterHub's; told apart by their files.
        backbone: the `Backbone` it was trained on. Our manifest proves that it is; the files of others do not tell.
        methods: name -> class of methods that are not in `METHODS`.
        labels: names of the classes, in order, where the files have none: peft's, and some of AdapterHub's.

    Raises:
        AdapterError: files that are missing, damaged, of another model, or of a kind that we lack; a hub that cannot
            be reached.
        ConfigError: labels that do not fit.
    """
    with opened(source) as found:
        return read(found, backbone, methods, labels)


def read(
    source: Source, backbone: Backbone, methods: Mapping[str, type[Method]] | None = None, labels: Sequence[str] = ()
) -> tuple[Model, Tree]:
    """As `load_adapter`, of a source that is open."""
    from adapters_jax.interop.adapterhub import load_adapterhub
    from adapters_jax.interop.peft import load_peft

    if source.kind == "peft":
        return load_peft(source.folder, backbone, labels=tuple(labels))
    if source.kind == "adapterhub":
        return load_adapterhub(source.folder, backbone, labels=tuple(labels))
    if labels:
        raise ConfigError(f"{source.name}: labels: expected none, since its own files name the classes")
    return artefact.load_adapter(source.folder, backbone, methods)


@contextlib.contextmanager
def opened(source: str | Path, allow_pickle: bool = False) -> Iterator[Source]:
    """The source as a folder: one of the hub's is fetched, and copied, since the cache holds links.

    Args:
        source: as of `load_adapter`.
        allow_pickle: fetch pickles too.

    Raises:
        AdapterError: it cannot be fetched; and what is raised while it is open, the source's name in the place of the
            copy's.
    """
    text = str(source)
    if not text.startswith(hub.PREFIX):
        yield Source(Path(source), kind_of(Path(source)), text)
        return
    repo, revision = hub.parse(text)
    wanted = (*FILES, *BACKBONE) if allow_pickle else FILES
    found, commit = hub.fetch(repo, revision, wanted, AdapterError, text)
    below = (found / SETUP).is_file()
    more = tuple(f"*/{name}" for name in wanted) if below else ()
    if allow_pickle:
        more += tuple(name for name, safe in pickles.FILES.items() if not (found / safe).is_file())
        more += tuple(f"*/{name}" for name in pickles.ADAPTERS if below)
    if more:
        wanted = (*wanted, *more)
        found, _ = hub.fetch(repo, commit, wanted, AdapterError, text)
    name = f"{hub.PREFIX}{repo}@{commit}"
    _refuse_no_adapter(hub.chosen(found, wanted), name, repo, commit)
    logging.getLogger(__name__).info("%s: fetched", name)
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(copy, "files")
        _copy(found, folder, wanted)
        try:
            yield Source(folder, kind_of(folder), name, commit)
        except AdaptersJaxError as error:
            raise type(error)(str(error).replace(str(folder), name)) from error


def kind_of(folder: Path) -> str:
    """ "native", "peft", "adapterhub", or "none", by the files of a folder.

    Raises:
        AdapterError: an adapter_config.json that cannot be read.
    """
    if (folder / manifest.NAME).exists():
        return "native"
    if (folder / "adapter_config.json").exists():
        return "peft" if "peft_type" in folders.read_config(folder / "adapter_config.json") else "adapterhub"
    others = (SETUP, "adapter_fusion_config.json", "head_config.json")
    return "adapterhub" if any((folder / name).exists() for name in others) else "none"


def stale(there: Collection[str], pushed: Collection[str]) -> list[str]:
    """Which files of a repository to delete when others are pushed: what an adapter or a folded model left there.

    An older adapter's files would be read beside the new ones, or in their place.
    """
    old = [name for name in (*FILES, *pickles.FILES, *BACKBONE) if name in there]
    if SETUP in there:
        old += [path for path in there if path.count("/") == 1 and path.split("/")[1] in (*FILES, *pickles.ADAPTERS)]
    return [name for name in old if name not in pushed]


def _refuse_no_adapter(fetched: Sequence[Path], name: str, repo: str, commit: str) -> None:
    """Refuses a repository of which nothing was fetched that holds weights: its list tells why."""
    if any(path.suffix == ".safetensors" or path.name in pickles.FILES for path in fetched):
        return
    there = hub.listing(repo, commit)
    pickled = sorted(path for path in there if path.endswith(".bin") and "/" not in path)
    if pickled:
        raise AdapterError(f"{name}: expected safetensors, found {pickles.reason(pickled, name)}")
    raise AdapterError(
        f"{name}: expected an adapter (one of {', '.join(FILES[-4:])}), found {', '.join(there[:5]) or 'nothing'}"
    )


def _copy(found: Path, folder: Path, wanted: Sequence[str]) -> None:
    """Plain copies of the wanted files, of those alone: other programs fetch into the same cache."""
    folder.mkdir()
    for path in hub.chosen(found, wanted):
        place = path.relative_to(found)
        if len(place.parts) <= 2:
            (folder / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / place)
