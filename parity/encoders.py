"""Small random encoders of each family as transformers saves them, and what it computes with them.

    python -m parity.encoders FOLDER      writes FOLDER/encoders/FAMILY: config.json, model.safetensors, the tokenizer's
                                          files in the family's format, golden.npz

golden.npz: batches as the family's tokenizer makes them of `TEXTS` and `PAIRS`, and in float64 every hidden state and
the masked-LM logits at their tokens; for RoBERTa and XLM-R the logits of the released form of classifier too. Weights
are kept in half precision, which float32 holds exactly.
"""

import json
import string
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from parity.encoders_texts import FAMILIES, PAIRS, TEXTS

WORDS = "the a is not good bad cat dog man woman and of in on who what".split()
CHARACTERS = string.ascii_lowercase + string.digits + ".,?!'-"
SMALL: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=40
)
DISTIL = dict(dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=40, sinusoidal_pos_embds=True)
ROBERTA = SMALL | dict(type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5)
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-multilingual": ("Bert", SMALL | dict(type_vocab_size=2)),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "distilbert": ("DistilBert", DISTIL),
    "electra": ("Electra", SMALL | dict(embedding_size=16)),
}
"""Folder -> (transformers' name, the sizes)."""


def wordpiece(folder: Path, cased: bool) -> int:
    """vocab.txt of BERT, DistilBERT and ELECTRA; its size."""
    letters = CHARACTERS + ("äöüéñçЖШ中文" + string.ascii_uppercase if cased else "")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = list(dict.fromkeys([*special, *WORDS, *letters, *(f"##{c}" for c in letters if c.isalnum())]))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    return len(words)


def byte_level(folder: Path) -> int:
    """vocab.json and merges.txt of RoBERTa, as GPT-2's; its size."""
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *CHARACTERS, "Ġ"]
    merges = []
    for word in (f"{blank}{word}" for word in WORDS for blank in ("Ġ", "")):
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
                vocab.append(word[:end])
    vocab.append("<mask>")
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(vocab)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return len(vocab)


def unigram(folder: Path) -> int:
    """tokenizer.json of XLM-R, as converted from SentencePiece; its size."""
    special = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    characters = CHARACTERS + "äöüéñçЖШ中文" + string.ascii_uppercase
    vocab = special | {"▁": -2.0} | dict.fromkeys(characters, -6.0)
    vocab |= {f"▁{word}": -3.0 - n / 8 for n, word in enumerate(WORDS)} | {"<mask>": 0.0}
    tokenizer = Tokenizer(models.Unigram(list(vocab.items()), unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>", cls="<s>", mask="<mask>")
    fields = {"tokenizer_class": "XLMRobertaTokenizer"} | {f"{name}_token": token for name, token in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return len(vocab)


def tokenizer(folder: Path, family: str) -> int:
    """Writes the family's files; the size of the vocabulary."""
    if family == "roberta":
        return byte_level(folder)
    return unigram(folder) if family == "xlm-roberta" else wordpiece(folder, cased=family == "bert-multilingual")


def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor by its name, of half precision's numbers: LayerNorm scales around 1, the rest around 0."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.2, shape)
    scale = "norm" in name.lower() and name.endswith("weight")
    return torch.from_numpy((draw + scale).astype(np.float16).astype(np.float64))


def filled(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(value(name, tuple(tensor.shape)))
    return model.eval()


def build(family: str, kind: str, vocab: int, **more: Any) -> Any:
    name, sizes = SIZES[family]
    config = getattr(transformers, f"{name}Config")(vocab_size=vocab, attn_implementation="eager", **sizes, **more)
    return filled(getattr(transformers, f"{name}For{kind}")(config))


def batches(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    made = AutoTokenizer.from_pretrained(folder)
    yield dict(made(TEXTS, padding=True, return_tensors="pt"))
    yield dict(made(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt"))


def vectors(family: str, folder: Path, vocab: int, model: Any) -> Iterator[tuple[str, np.ndarray]]:
    model = model.double()
    classifier = None
    if "roberta" in family:
        classifier = build(family, "SequenceClassification", vocab, num_labels=3).double()
        for part in ("dense", "out_proj"):
            for kind in ("weight", "bias"):
                yield f"classifier/{part}.{kind}", getattr(getattr(classifier.classifier, part), kind).numpy(force=True)
    for number, batch in enumerate(batches(folder)):
        mask = batch["attention_mask"].numpy() == 1
        for name, tensor in batch.items():
            yield f"{number}/{name}", tensor.numpy().astype(np.int32)
        with torch.no_grad():
            output = model(**batch, output_hidden_states=True)
            logits = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
            for layer, hidden in enumerate(output.hidden_states):
                yield f"{number}/hidden/{layer}", hidden.numpy()[mask].astype(np.float32)
            yield f"{number}/masked_lm", logits.numpy()[mask].astype(np.float32)
            if classifier is not None:
                yield f"{number}/logits", classifier(**batch).logits.numpy()
            if family == "bert-multilingual":
                yield f"{number}/pooled", model.bert(**batch).pooler_output.numpy()


def write(out: Path, family: str) -> None:
    folder = out / "encoders" / family
    folder.mkdir(parents=True, exist_ok=True)
    vocab = tokenizer(folder, family)
    kind = "PreTraining" if family == "bert-multilingual" else "MaskedLM"
    model = build(family, kind, vocab)
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "golden.npz", **dict(vectors(family, folder, vocab, model)))
    print(f"{folder}: {vocab} entries, {sum(file.stat().st_size for file in folder.iterdir())} bytes")


def main() -> None:
    for family in FAMILIES:
        write(Path(sys.argv[1]), family)


if __name__ == "__main__":
    main()
