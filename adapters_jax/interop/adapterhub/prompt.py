"""Prompt tuning: `PromptTuningConfig`; the rows stand in front of the embeddings, after LayerNorm and dropout.

    prompt_tuning.prompt_tunings.NAME.prompt_embedding.weight  (l, d)       embed/prompt

What the library's heads for texts read is the first row of all, the prompt's: read="first" here. Its heads for tokens
give rows for the prompt too; ours are those behind them.
"""

from typing import Any

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads import Classification, Regression
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.adapterhub.files import Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import Prompt

FIELDS: files.Fields = {
    "architecture": (str, "prompt_tuning"),
    "prompt_length": (int, 10),
    "prompt_init": (str, "random_uniform"),
    "prompt_init_text": (str | None, None),
    "random_uniform_scale": (float, 0.5),
    "combine": (str, "prefix"),
    "init_weights_seed": (int | None, None),
}


def reads_row(head: Any) -> bool:
    """Whether a head reads the first row that the encoder returns."""
    return isinstance(head, Classification | Regression)


def rows(method: Prompt, config: BertConfig, name: str) -> list[Row]:
    place = f"prompt_tuning.prompt_tunings.{name}.prompt_embedding.weight"
    return [Row("embed/prompt", place, (method.length, config.hidden_size))]


def read(source: Source) -> tuple[Prompt, Flat]:
    given = files.options(source.where, source.options, FIELDS)
    refuse(KIND.not_read, given, source.where)
    read = "first" if source.reads_row else "cls"
    method = Prompt(length=given["prompt_length"], init="uniform", insertion="encoder", read=read)
    return method, files.take(source.claims, rows(method, source.config, source.name))


def write(method: Prompt, target: Target) -> tuple[Options, Flat]:
    own = files.defaults(FIELDS) | {"prompt_length": method.length}
    del own["random_uniform_scale"]  # a constant there, which no file of the library names
    return own, files.put(rows(method, target.config, target.name), target.flat)


KIND = Kind(
    title="prompt tuning (`prompt_tuning`)",
    methods=(Prompt,),
    read=read,
    write=write,
    note='with insertion="encoder", and read="first" under heads for texts',
    not_read=(
        Refusal(
            "combine other than prefix",
            "we have prompts in front of [CLS] alone",
            lambda own: own["combine"] != "prefix",
        ),
        Refusal("a length below 1", "there is nothing to read", lambda own: own["prompt_length"] < 1),
    ),
    not_written=(
        Refusal(
            "insertion='words'",
            "the library puts prompts behind the embeddings' LayerNorm: another function (peft's files hold these)",
            lambda model: model.method.insertion != "encoder",
        ),
        Refusal(
            "read='cls' under a head for texts",
            "the library's head reads the prompt's first row, not [CLS]",
            lambda model: model.method.read == "cls" and reads_row(model.head),
        ),
        Refusal(
            "read='first' without a head for texts",
            "the library's states and heads for tokens keep [CLS] where it is",
            lambda model: model.method.read == "first" and not reads_row(model.head),
        ),
        Refusal("an ensemble", "the library has one prompt", lambda model: model.method.ensemble > 1),
    ),
)
