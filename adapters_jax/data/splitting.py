"""A split of rows into those to train on and those to evaluate on: seeded, stratified, duplicates kept together."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from adapters_jax.data.source import Source, Subset
from adapters_jax.errors import ConfigError

DEV_SHARE = 0.1
"""Of the rows, where the user names none."""
BANDS = 10
"""Values are stratified by tenths of their distribution."""


class Split(NamedTuple):
    """Both parts, in the source's order, and what the manifest says of how they came about."""

    train: Subset
    dev: Subset
    record: dict[str, Any]


def same_text(row: dict[str, Any]) -> tuple[str, ...]:
    """What two rows share whose texts are the same: case, spaces and Unicode's several ways to write it aside."""
    texts = (row[name] for name in ("text", "text_pair") if name in row)
    return tuple(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)


def hold_out(source: Source, share: float, seed: int = 0) -> Split:
    """Holds out a share of the rows, the same for the same rows, share and seed, whatever is trained.

    Each class gets about its share; of rows with several, the rarest class counts; values are taken by tenths. Rows
    with the same text stay on one side, and a class that has one text only stays in train.

    Args:
      source: labelled rows.
      share: of all rows, in (0, 1).
      seed: another one gives another split.

    Raises:
      ConfigError: a share out of range, or so few rows that a part would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--dev-share: expected a share of the rows between 0 and 1, got {share}")
    rows = [source[number] for number in range(len(source))]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[same_text(row)].append(number)
    strata: dict[Hashable, list[list[int]]] = defaultdict(list)
    stratum = _strata(rows, source.features.kind)
    for members in groups.values():
        strata[stratum[members[0]]].append(members)

    # RandomState's streams are frozen for good (NEP 19), those of numpy's newer generators are not.
    random, chosen, seen = np.random.RandomState(seed), list[int](), 0
    for key in sorted(strata, key=repr):
        inner = strata[key]
        seen += sum(map(len, inner))
        # Up to here, not of this class alone: what small classes lack by rounding, the next ones make up for.
        wanted = round(share * seen) - len(chosen)
        for index in random.permutation(len(inner))[: len(inner) - 1]:
            if len(inner[index]) <= wanted:
                chosen += inner[index]
                wanted -= len(inner[index])
    if not chosen or len(chosen) == len(rows):
        raise ConfigError(
            f"--dev-share={share:g}: expected enough rows to hold some out, got {len(rows)} with {len(groups)} "
            "different texts; give --dev, or a larger share"
        )
    dev = np.sort(np.array(chosen))
    train = np.setdiff1d(np.arange(len(rows)), dev)
    digest = hashlib.sha256("\n".join(rows[number]["id"] for number in dev).encode(errors="replace"))
    record = {
        "share": share,
        "seed": seed,
        "train": len(train),
        "dev": len(dev),
        "dev_ids_sha256": digest.hexdigest(),
    }
    return Split(
        Subset(source, train, f"{source.name}[train: {len(train)} of {len(rows)}, split seed {seed}]"),
        Subset(source, dev, f"{source.name}[dev: {len(dev)} of {len(rows)}, split seed {seed}]"),
        record,
    )


def _strata(rows: list[dict[str, Any]], kind: str) -> list[Hashable]:
    labels = [row["label"] for row in rows]
    if kind == "regression":
        borders = np.quantile(labels, np.linspace(0, 1, BANDS + 1)[1:-1])
        return [int(band) for band in np.searchsorted(borders, labels, side="right")]
    if kind == "multilabel":
        counts = Counter(one for label in labels for one in label)
        return [min(label, key=lambda one: (counts[one], one), default=-1) for label in labels]
    return labels
