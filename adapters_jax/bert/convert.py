"""Released checkpoints (safetensors, Hugging Face's names) <-> the backbone's tree, strictly.

Every tensor of a file is accounted for: read, or known not to belong to the encoder, or an error. Both namings of
LayerNorm weights (weight/bias and the older gamma/beta) and names with or without the family's prefix (`bert.`) are
read; what each family of encoders calls its tensors is in families.py.
"""

import functools
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax import trees
from adapters_jax.bert import quant, weights
from adapters_jax.bert.assembly import Assembly, Place
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.families import FAMILIES, Family
from adapters_jax.errors import BackboneError
from adapters_jax.types import Tree

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Saved by some releases, not weights."""


def canonical(name: str, family: Family) -> str | None:
    """A tensor's name without prefix and in the newer naming; None for what is not a weight of the encoder."""
    plain = _newer(name, family)
    # BERT's heads carry no prefix; RoBERTa's pooler, which counts as one here, does.
    return None if plain.startswith(family.heads) or plain in BUFFERS else plain


def _newer(name: str, family: Family) -> str:
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_NEWER[m[1]]}", name.removeprefix(family.root))


_NEWER = {"gamma": "weight", "beta": "bias"}


def fingerprint_of(config: BertConfig) -> Any:
    """A running sha256 that has seen the config; feed it tensors with `digest`."""
    running = hashlib.sha256()
    running.update(json.dumps(config.to_dict(), sort_keys=True).encode())
    return running


def digest(running: Any, path: str, tensor: np.ndarray) -> None:
    """Adds a weight as it was read: path, dtype, shape and bytes in the released layout."""
    running.update(f"{path} {tensor.dtype} {list(tensor.shape)}".encode())
    running.update(np.ascontiguousarray(tensor).view(np.uint8).reshape(-1))


def read_weights(
    files: Iterable[Path],
    config: BertConfig,
    dtype: str,
    quantize: str | None = None,
    place: Place | None = None,
) -> tuple[Tree, str]:
    """(the backbone's tree, its fingerprint), tensor by tensor: what is quantised never stands in memory as floats.

    Args:
        files: safetensors files, together the checkpoint.
        config: of the encoder.
        dtype: in which the weights are kept.
        quantize: how the dense kernels of the layers are kept instead, one of `quant.KINDS`; None: as floats.
        place: where leaves go as they are read; None: they stay on the host.

    Raises:
        BackboneError: a file that is not safetensors or is cut short; a missing, unexpected or misshapen tensor;
            a value that is not finite.
        ConfigError: an unknown way to quantise.
    """
    quantised = None if quantize is None else quant.type_of(quantize)
    readers, where, family = {}, {}, FAMILIES[config.model_type]
    passed: list[str] = []
    for file in files:
        readers[file] = _open(file)
        for name in readers[file].keys():  # noqa: SIM118 - not a dict
            plain = canonical(name, family)
            if plain is None:
                passed += [name] if _newer(name, family).startswith("pooler.") else []
                continue
            if plain in where:
                raise BackboneError(f"{file}: two tensors are both {plain}")
            where[plain] = (file, name)
    if passed:
        warnings.warn(
            f"{', '.join(map(str, readers))}: passed over {', '.join(sorted(passed))}: heads on a {config.model_type} "
            "bring a pooler of their own; what was trained there is not used",
            stacklevel=3,
        )
    pooler = any(row.released in where for row in weights.POOLER)
    table = list(weights.numbered(config, pooler))
    _check(where, readers, table, config)

    running, tree = fingerprint_of(config), Assembly(config.num_hidden_layers, place)
    for row in table:
        file, name = where[row.released]
        tensor = _read(file, functools.partial(readers[file].get_tensor, name))
        wide = np.asarray(tensor, np.float32)
        if not np.isfinite(wide).all():
            raise BackboneError(f"{file}: {name} holds values that are not finite; the file is damaged: fetch it again")
        digest(running, row.path, tensor)
        if quantised is not None and quant.is_quantisable(row.path):
            tree.add(row.path, quantised.of(wide))
        else:
            tree.add(row.path, (tensor.T if row.transposed else tensor).astype(_numpy_dtype(dtype)))
    return tree.tree(), running.hexdigest()


def read_masked_lm(files: Iterable[Path], config: BertConfig) -> Tree | None:
    """The masked-LM head that a checkpoint brings, as `heads.MaskedLM` has it, in float32.

    Args:
        files: as of `read_weights`.
        config: of the encoder.

    Returns:
        The tree under head/; None if the files hold no such head, or one with a decoder that is not tied to the
        embeddings, which is another function.

    Raises:
        BackboneError: a file that cannot be read, a misshapen tensor, a value that is not finite.
    """
    where: dict[str, tuple[Path, Any, str]] = {}
    family = FAMILIES[config.model_type]
    paths = _masked_lm_paths(family)
    for file in files:
        reader = _open(file)
        where |= {paths.get(_newer(name, family), name): (file, reader, name) for name in reader.keys()}  # noqa: SIM118

    def get(path: str) -> np.ndarray:
        file, reader, name = where[path]
        return _read(file, lambda: reader.get_tensor(name)).astype(np.float32)

    d, e, v = config.hidden_size, config.embedding_width, config.vocab_size
    shapes = {"dense/kernel": (e, d), "dense/bias": (e,), "norm/scale": (e,), "norm/bias": (e,), "decoder/bias": (v,)}
    if not all(path in where for path in shapes):
        return None
    if "decoder/kernel" in where and not np.array_equal(get("decoder/kernel"), get("words")):
        return None
    flat = {path: get(path) for path in shapes}
    for path, tensor in flat.items():
        file, _, name = where[path]
        if tensor.shape != shapes[path]:
            raise BackboneError(f"{file}: {name} is {list(tensor.shape)}, expected {list(shapes[path])}")
        if not np.isfinite(tensor).all():
            raise BackboneError(f"{file}: {name} holds values that are not finite; the file is damaged: fetch it again")
    return trees.unflatten(flat | {"dense/kernel": flat["dense/kernel"].T})


def _masked_lm_paths(family: Family) -> dict[str, str]:
    """Released name -> ours."""
    dense, norm, bias, decoder = family.masked_lm
    return {
        f"{dense}.weight": "dense/kernel",
        f"{dense}.bias": "dense/bias",
        f"{norm}.weight": "norm/scale",
        f"{norm}.bias": "norm/bias",
        bias: "decoder/bias",
        f"{decoder}.bias": "decoder/bias",
        f"{decoder}.weight": "decoder/kernel",
        "embeddings.word_embeddings.weight": "words",
    }


def released_weights(backbone: Tree, config: BertConfig) -> dict[str, np.ndarray]:
    """The inverse of `read_weights`: tensors by their names in released files, without prefix.

    Args:
        backbone: the tree.
        config: its own.
    """
    flat = trees.to_layers(backbone)
    rows = weights.numbered(config, pooler="pooler/kernel" in flat)
    tensors = {row.released: np.asarray(flat[row.path]).T if row.transposed else flat[row.path] for row in rows}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _numpy_dtype(dtype: str) -> Any:
    import ml_dtypes

    return {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]


def _open(file: Path) -> Any:
    from safetensors import safe_open

    return _read(file, lambda: safe_open(file, framework="numpy"))


def _read(file: Path, read: Callable[[], Any]) -> Any:
    from safetensors import SafetensorError

    try:
        return read()
    except SafetensorError as error:
        raise BackboneError(f"{file}: not a whole safetensors file ({error}); fetch it again") from error
    except OSError as error:
        raise BackboneError(f"{file}: cannot be read ({error.strerror or error})") from error


def _check(where: dict, readers: dict, table: list[weights.Weight], config: BertConfig) -> None:
    """Raises naming every missing, unexpected and misshapen tensor."""
    expected = {row.released: row.shape(config)[:: -1 if row.transposed else 1] for row in table}
    problems = [f"missing {name}" for name in expected if name not in where]
    problems += [f"unexpected {name}" for name in where if name not in expected]
    for name, shape in expected.items():
        if name in where:
            file, key = where[name]
            found = tuple(readers[file].get_slice(key).get_shape())
            problems += [] if found == shape else [f"{name} is {list(found)}, expected {list(shape)}"]
    if problems:
        files = ", ".join(str(file) for file in readers)
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise BackboneError(f"{files}: not the weights of this config: {'; '.join(problems[:6])}{more}")
