"""Prompts as peft's PROMPT_TUNING, and P-tuning's as its P_TUNING.

    prompt_embeddings    (l, d)    adapters/embed/prompt

The network that makes P-tuning's rows is evaluated: peft saves what it gives, and so do we. In peft's classifiers of
texts the pooler reads the first row of all, the prompt's; elsewhere its outputs begin with l rows of the prompt, after
which come those of the tokens, which are ours.
"""

from typing import Any

import numpy as np

from adapters_jax.bert.heads import Classification, Regression
from adapters_jax.interop.peft.prefix import EMBEDDINGS, NO_TASK, rows, sizes
from adapters_jax.interop.peft.source import Source
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.p_tuning import PTuning
from adapters_jax.methods.prompt import Prompt, PromptMethod
from adapters_jax.model import Model

NOTE = (
    "read is first with classifiers of texts, else cls; outputs there begin with the prompt's rows, ours with [CLS]; "
    "the bare encoder: of texts of token type 0, since peft drops token types there"
)
OPTIONS = (
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
)
"""How rows start, and the network that makes them while they are trained."""


def _read(source: Source) -> tuple[Method, Flat]:
    length = rows(source)
    source.ignore(*OPTIONS)
    prompt = source.claims.take(EMBEDDINGS, length, source.bert.hidden_size)
    read = "first" if source.task == "SEQ_CLS" else "cls"
    return Prompt(length, insertion="words", read=read), {"adapters/embed/prompt": prompt}


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, PromptMethod)
    options = sizes(model, method.length) | {"prompt_tuning_init": "RANDOM"}
    return {EMBEDDINGS: flat["adapters/embed/prompt"]}, options


def _write_made(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, PromptMethod)
    options = {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": model.config.hidden_size}
    return {EMBEDDINGS: flat["adapters/embed/prompt"]}, sizes(model, method.length) | options


def _reads_pooled(model: Model) -> bool:
    return isinstance(model.head, Classification | Regression)


NOT_WRITTEN = (
    Refusal(
        "rows after the embeddings' LayerNorm (insertion encoder)",
        "peft's stand before positions, types and LayerNorm; train with --method.insertion=words",
        lambda model: model.method.insertion != "words",
    ),
    Refusal(
        "a classifier of texts that reads the true [CLS] (read cls)",
        "peft's reads the prompt's first row; train with --method.read=first",
        lambda model: _reads_pooled(model) and model.method.read != "first",
    ),
    Refusal(
        "another head that reads the prompt's first row for [CLS] (read first)",
        "peft's reads each token; use read=cls",
        lambda model: not _reads_pooled(model) and model.method.read == "first",
    ),
)

PROMPT = Kind(
    title="PROMPT_TUNING",
    methods=(Prompt,),
    read=_read,
    write=_write,
    note=NOTE,
    not_read=(NO_TASK,),
    not_written=(
        *NOT_WRITTEN,
        Refusal("an ensemble", "peft has one prompt; train one", lambda model: model.method.ensemble > 1),
    ),
)

P_TUNING = Kind(
    title="P_TUNING",
    methods=(PTuning,),
    read=_read,
    write=_write_made,
    note="without the network; loads as prompt; as PROMPT_TUNING else",
    not_read=(NO_TASK,),
    not_written=NOT_WRITTEN,
)
