"""The model card (README.md) of an artefact, made of what its manifest holds and of nothing else."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adapters_jax import errors, manifest
from adapters_jax.errors import ConfigError

NAME = manifest.CARD

LIBRARIES = {"native": "adapters_jax", "peft": "peft", "adapterhub": "adapter-transformers", "hf": "transformers"}
"""What wrote a folder -> the hub's name of the library that loads it."""

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "multilabel": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "multiple_choice": "multiple-choice",
    "ranking": "text-ranking",
    "masked_lm": "fill-mask",
}
"""Head -> the hub's name of its task."""

ASKED = {
    **dict.fromkeys(("classification", "multilabel", "regression", "token_classification"), '"a text"'),
    "question_answering": '("a question", "a text with the answer")',
    **dict.fromkeys(("multiple_choice", "ranking"), '("a text", ["a choice", "another"])'),
}
"""Head -> how it is asked; others have no answer to a text alone."""

UNKNOWN = "unknown"
"""The hub's word for a licence that nobody named."""

LICENSES = tuple(
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsl-1.0 cc cc-by-2.0 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-2.0 ecl-2.0 "
    "epl-2.0 eupl-1.2 gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 mit mpl-2.0 openrail unlicense wtfpl zlib other "
    "unknown".split()
)
"""The hub's identifiers of licences, the common ones; `other` is for the rest."""


def check_license(license: str) -> None:
    """Raises ConfigError where it is no identifier of the hub's, which takes no others."""
    if license not in LICENSES:
        raise ConfigError(f"--license: {errors.unknown('licence', license, LICENSES)}")


def render(
    content: Mapping[str, Any], kind: str, repo: str | None, license: str = UNKNOWN, architecture: str = ""
) -> str:
    """The card, its YAML header first.

    Args:
        content: of a manifest as `artefact.read_manifest` gives it, or as much of it as is known.
        kind: the form of the folder: a key of LIBRARIES.
        repo: user/name; None for a folder that is on no hub.
        license: one of LICENSES.
        architecture: the class of transformers that loads a folder of kind "hf".
    """
    method, head, backbone = content["method"], content["head"], content["backbone"]
    base = str(backbone.get("name"))
    title = f"{method['name']} on {Path(base).name}" + (f" for {content['task']}" if content.get("task") else "")
    parts = [
        f"---\n{_header(content, kind, license)}---",
        f"# {_plain(title)}",
        f"Trained with adapters_jax: the adapter alone, for the backbone `{_plain(Path(base).name)}`."
        if kind != "hf"
        else "Trained with adapters_jax and folded into the backbone's weights: a plain BERT.",
        "## Use",
        f"```python\n{_usage(kind, repo, content, architecture)}\n```",
        "## Method",
        _table(("hyper-parameter", "value"), {"method": method["name"]} | _fields(method)),
        "## Head",
        _table(("field", "value"), {"head": head["name"]} | _fields(head)),
        "## Data and scores",
        _table(("", ""), _facts(content)) if _facts(content) else "Not recorded.",
    ]
    scores = content.get("scores") or {}
    if scores:
        parts.append(
            _table(("score on the dev set", "fraction"), {key: f"{scores[key]:.4f}" for key in sorted(scores)})
        )
    for name, found in _tables(content.get("extra", {}).get("data_summary")):
        parts.append(_table((f"{_cell(name)} set", ""), {key: _shown(found[key]) for key in found}))
    command = content.get("extra", {}).get("command")
    parts += ["## Command", f"```bash\n{_command(command)}\n```" if command else "Not recorded."]
    versions = content.get("versions") or {}
    told = ", ".join(f"{key} {version}" for key, version in sorted(versions.items()))
    parts += ["## Versions", _plain(told) or "Not recorded."]
    parts += ["## Licence", license if license != UNKNOWN else "Not named by its author."]
    return "\n\n".join(parts) + "\n"


def _header(content: Mapping[str, Any], kind: str, license: str) -> str:
    base, task = str(content["backbone"].get("name")), content.get("task")
    header: dict[str, Any] = {"license": license, "library_name": LIBRARIES[kind]}
    if _is_hub_name(base):
        header |= {"base_model": base} | ({} if kind == "hf" else {"base_model_relation": "adapter"})
    if content["head"]["name"] in PIPELINES:
        header["pipeline_tag"] = PIPELINES[content["head"]["name"]]
    tags = ["adapters_jax", "adapter", str(content["method"]["name"]), _family(content), *([str(task)] if task else [])]
    return yaml.safe_dump(header | {"tags": list(dict.fromkeys(tags))}, sort_keys=False, allow_unicode=True)


def _family(content: Mapping[str, Any]) -> str:
    return str(content.get("config", {}).get("model_type", "bert"))


def _is_hub_name(name: str) -> bool:
    """Whether the name is one of the hub's; "minilm" is a package's, and paths are nobody else's."""
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    return bool(re.fullmatch(rf"({part}/)?{part}", name, re.ASCII)) and name != "minilm" and not Path(name).exists()


def _usage(kind: str, repo: str | None, content: Mapping[str, Any], architecture: str) -> str:
    base, head = str(content["backbone"].get("name")), content["head"]
    if kind == "hf":
        return f'import transformers\n\nmodel = transformers.{architecture}.from_pretrained("{repo}")'
    name = base if _is_hub_name(base) or base == "minilm" else "path/to/the/backbone"
    labels = tuple(map(str, head.get("labels", ()))) if kind == "peft" else ()  # peft's files have none
    more = f", labels={labels!r}".replace("`", "\\x60") if labels else ""  # three would end the block of code
    place = "path/to/this/folder" if repo is None else f"hf:{repo}"
    return (
        "import adapters_jax as aj\n\n"
        f"backbone = aj.load_backbone({name!r})\n"
        f'model, params = aj.load_adapter("{place}", backbone{more})'
        + (f"\npredictor = aj.Predictor(model, params, backbone{_reading(content)})" if head["name"] in ASKED else "")
        + (f"\nprint(predictor([{ASKED[head['name']]}]))" if head["name"] in ASKED else "")
    )


def _reading(content: Mapping[str, Any]) -> str:
    """How rows were made in training, as arguments of a `Predictor`."""
    extra = content.get("extra", {})
    told = {"max_length": content.get("max_length")}
    if content["head"]["name"] == "question_answering":
        told |= {name: extra.get(name) for name in ("doc_stride", "max_question_length")}
        told |= {"threshold": extra.get("no_answer_threshold")}
    return "".join(f", {name}={value}" for name, value in told.items() if isinstance(value, int | float))


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    summary = content.get("summary") or {}
    facts = {key: content.get(key) for key in ("task", "data", "max_length", "seed")}
    facts |= {
        "backbone's fingerprint": content["backbone"].get("fingerprint"),
        "backbone's revision": content["backbone"].get("revision"),
        "trained parameters": f"{summary['trained']:,}" if "trained" in summary else None,
        "share of the backbone": f"{summary['share']:.3%}" if "share" in summary else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _fields(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {key: stored[key] for key in sorted(stored) if key != "name"}


def _table(titles: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {titles[0]} | {titles[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())])


def _tables(summary: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Of what was read, the sets; a user's own `extra` may hold anything there."""
    found = summary.items() if isinstance(summary, Mapping) else ()
    return [(str(name), table) for name, table in found if isinstance(table, Mapping)]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(shown.split()).replace("|", "\\|") or "-"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")


def _command(command: Any) -> str:
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    return " ".join(text.split()).replace("```", "'''")  # which would end the block of code
