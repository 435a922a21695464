"""Counting what a method trains: the table at the start of a run, and the parameter counts of papers."""

import dataclasses
import re

from adapters_jax import trees
from adapters_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Row:
    """Trained leaves whose paths differ in the layer's number alone."""

    pattern: str
    leaves: int
    parameters: int
    share: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Parameters by kind, and a table of the trained leaves.

    Attributes:
        adapter: under adapters/, trained or not.
        head: under head/.
        backbone_trained: leaves of the backbone that the method trains.
        trained: all trained leaves, the head's included.
        backbone: the whole backbone, with its pooler.
        share: (adapter + backbone_trained) / backbone, the figure that papers give.
        rows: the trained leaves, by pattern.
    """

    adapter: int
    head: int
    backbone_trained: int
    trained: int
    backbone: int
    share: float
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        width = max([len("trained leaves"), *(len(row.pattern) for row in self.rows)])
        line = f"{{:<{width}}}  {{:>6}}  {{:>12}}  {{:>9}}"
        lines = [line.format("trained leaves", "leaves", "parameters", "backbone")]
        lines += [line.format(r.pattern, r.leaves, f"{r.parameters:,}", f"{r.share:.3%}") for r in self.rows]
        leaves = sum(row.leaves for row in self.rows)
        lines.append(line.format("total", leaves, f"{self.trained:,}", f"{self.trained / self.backbone:.3%}"))
        lines.append(
            f"adapters {self.adapter:,} + backbone leaves {self.backbone_trained:,} = {self.share:.1%} of the "
            f"backbone's {self.backbone:,}; head {self.head:,}"
        )
        return "\n".join(lines)


def summarise(params: Tree, labels: Tree) -> Summary:
    """Counts over a tree of arrays or shapes and its labels."""
    trained, _ = trees.split(params, labels)
    backbone = trees.count(params["backbone"])
    adapter, head = trees.count(params["adapters"]), trees.count(params["head"])
    backbone_trained = trees.count(trained["backbone"])
    groups: dict[str, list[int]] = {}
    for path, leaf in trees.flatten(trained).items():
        names = trees.layer_paths(path, leaf)
        size = trees.count({"leaf": leaf}) // len(names)
        for name in names:
            groups.setdefault(re.sub(r"/\d+(?=/)", "/*", name), []).append(size)
    rows = tuple(Row(p, len(sizes), sum(sizes), sum(sizes) / backbone) for p, sizes in groups.items())
    return Summary(
        adapter=adapter,
        head=head,
        backbone_trained=backbone_trained,
        trained=trees.count(trained),
        backbone=backbone,
        share=(adapter + backbone_trained) / backbone,
        rows=rows,
    )
