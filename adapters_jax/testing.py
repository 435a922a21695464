"""For tests of this library and of code that uses it: a tiny backbone and tokenizer, fake batches, assertions."""

import json
import string
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.bert.backbone import Backbone, load_backbone
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.convert import released_weights
from adapters_jax.types import Tree

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "is", "not", "good", "bad", "cat", "dog", "man", "woman", "and", "of", "in", "on", "who", "what")


def vocabulary() -> list[str]:
    """Special tokens, a few words, and every letter and digit at the start and inside of a word: 128 at most."""
    characters = string.ascii_lowercase + string.digits
    return list(dict.fromkeys([*SPECIAL, *WORDS, *characters, *(f"##{c}" for c in characters), *".,?!'-"]))


def write_backbone(folder: Path, config: BertConfig | None = None, seed: int = 0, pooler: bool = True) -> Path:
    """Writes a random encoder as released checkpoints are: config.json, model.safetensors, tokenizer.json (BERT's).

    Args:
        folder: made if it is not there.
        config: `BertConfig.tiny()` if not given; the vocabulary needs 128 entries.
        seed: of the weights.
        pooler: whether the checkpoint has one.
    """
    from safetensors.numpy import save_file

    config = config or BertConfig.tiny()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = released_weights(weights.initialise(jax.random.key(seed), config, pooler), config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | config.to_dict()))
    _write_tokenizer(folder, config)
    return folder


def _write_tokenizer(folder: Path, config: BertConfig) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True)
    fields = {"tokenizer_class": "BertTokenizer", "model_max_length": config.max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(fields | {f"{name}_token": token for name, token in names})
    )


def tiny_backbone(folder: Path, config: BertConfig | None = None, seed: int = 0, pooler: bool = True) -> Backbone:
    """`write_backbone`, loaded."""
    return load_backbone(str(write_backbone(folder, config, seed, pooler)))


def fake_batch(config: BertConfig, rows: int = 4, length: int = 12, seed: int = 0, classes: int = 3) -> dict[str, Any]:
    """Random rows of unlike lengths: input_ids, token_type_ids, mask [b t], labels and weight [b]."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, rows)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    return {
        "input_ids": jnp.asarray(rng.integers(5, config.vocab_size, (rows, length)) * mask, jnp.int32),
        "token_type_ids": jnp.asarray((np.arange(length) >= lengths[:, None] // 2) * mask, jnp.int32),
        "mask": jnp.asarray(mask),
        "labels": jnp.asarray(rng.integers(0, classes, rows), jnp.int32),
        "weight": jnp.ones(rows, jnp.float32),
    }


def perturb(tree: Tree, seed: int = 1, scale: float = 0.05) -> Tree:
    """The tree with normal noise on every leaf: for comparing models away from their initial values."""
    key = jax.random.key(seed)
    noise = lambda path, leaf: leaf + scale * jax.random.normal(trees.fold_path(key, path), leaf.shape, leaf.dtype)
    return trees.map_paths(noise, tree)


def assert_same(a: Tree, b: Tree) -> None:
    """Every leaf equal to the last bit; the message names those that are not."""
    unlike = trees.diff(a, b)
    assert not unlike, f"leaves differ: {', '.join(unlike[:10])}"


def relative_error(found: Any, expected: Any) -> float:
    """The norm of the difference over the norm, in float64."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30))
