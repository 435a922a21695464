"""Token ids of parts of longer texts."""

from collections.abc import Sequence
from typing import Any


def pieces(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; what UTF-8 cannot say becomes a question mark.

    The texts are parts of longer ones, so each is tokenised as after a blank: byte-level BPE (RoBERTa) has other pieces
    for the first word of a text than for the same word within it. WordPiece and SentencePiece have the same.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    clean = [text.encode(errors="replace").decode().strip() for text in texts]
    clean = [f" {text}" if text else "" for text in clean]
    return [encoding.ids for encoding in backend.encode_batch(clean, add_special_tokens=False)]
