"""What was read, in numbers: for people on standard error, and for the artefact's manifest."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapters_jax.data.labels import counts_of
from adapters_jax.data.source import Source
from adapters_jax.data.splitting import same_text

SHOWN = 20
"""Classes in a line of text; the manifest has all."""


def overview(source: Source, lengths: np.ndarray, max_length: int) -> dict[str, Any]:
    """Rows, classes with their counts or the spread of the values, lengths, truncated and duplicate texts.

    Args:
      source: the rows.
      lengths: tokens, special ones included, before anything is cut off, of all rows or a sample, [n].
      max_length: above which a row is cut.

    Returns:
      JSON values. `truncated` are rows among those whose lengths are given (`tokens.rows`), `duplicates` rows whose
      text an earlier one has, `conflicting` those of them whose label differs.
    """
    first: dict[tuple[str, ...], Any] = {}
    duplicates = conflicting = 0
    values = []
    for number in range(len(source)):
        row = source[number]
        text, label = same_text(row), row.get("label")
        values += [label] if isinstance(label, float) else []
        if text in first:
            duplicates += 1
            conflicting += first[text] != label
        else:
            first[text] = label
    found: dict[str, Any] = {"source": source.name, "rows": len(source)}
    if values:
        found["values"] = {"least": min(values), "mean": float(np.mean(values)), "most": max(values)}
    elif source.features.labels and "label" in source[0]:
        found["classes"] = counts_of(source)
        if source.features.kind == "multilabel":
            found["without_a_class"] = sum(not source[number]["label"] for number in range(len(source)))
    found["tokens"] = {
        "rows": len(lengths),
        "median": int(np.median(lengths)),
        "95%": int(np.percentile(lengths, 95, method="higher")),
        "longest": int(lengths.max()),
    }
    truncated = int(np.sum(lengths > max_length))
    return found | {"truncated": truncated, "duplicates": duplicates, "conflicting": conflicting}


def shared_rows(train: Source, other: Source) -> int:
    """How many rows of `other` have the text of one to train on."""
    known = {same_text(train[number]) for number in range(len(train))}
    return sum(same_text(other[number]) in known for number in range(len(other)))


def lines_of(summary: Mapping[str, Any]) -> list[str]:
    """The same for people, a line for each set and each thing that is worth a look.

    Args:
      summary: by set, what `overview` gives, and "read", lines on how it was read, where there are any; of sets that
        are not trained on, "in_train" too.
    """
    lines = []
    for name, found in summary.items():
        lengths = found["tokens"]
        sample = f" (of a sample of {lengths['rows']:,} rows)" if lengths["rows"] < found["rows"] else ""
        lines += [f"{name}: {line}" for line in found.get("read", ())]
        lines.append(
            f"{name}: {found['rows']:,} rows of {found['source']}; {_labels(found)}tokens{sample}: median "
            f"{lengths['median']}, 95 % up to {lengths['95%']}, longest {lengths['longest']}; {found['truncated']:,} "
            "truncated"
        )
        if found["duplicates"]:
            conflicting = f", {found['conflicting']:,} with another label" if found["conflicting"] else ""
            lines.append(f"{name}: {found['duplicates']:,} rows repeat the text of an earlier one{conflicting}")
        if found.get("in_train"):
            lines.append(f"{name}: {found['in_train']:,} of its rows have a text that is trained on")
    return lines


def _labels(found: Mapping[str, Any]) -> str:
    if "values" in found:
        values = found["values"]
        return f"values from {values['least']:g} to {values['most']:g}, mean {values['mean']:.4g}; "
    if "classes" not in found:
        return "no labels; "
    classes = found["classes"]
    shown = ", ".join(f"{_short(name)} {count:,}" for name, count in list(classes.items())[:SHOWN])
    more = f" and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else ""
    none = f", none {found['without_a_class']:,}" if found.get("without_a_class") else ""
    return f"{len(classes)} classes: {shown}{more}{none}; "


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."
