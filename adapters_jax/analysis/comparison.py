"""Methods beside each other: score against trained parameters, as a table and as the field's figure.

The figure is that of Houlsby et al. (2019, figures 3 and 4): a logarithmic axis of trained parameters, a line for each
method, and fine-tuning the top n layers as the baseline to beat.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BASELINE = "top_n"
"""Drawn in black and dashed."""
REFERENCES = {"full": "--", "head": ":"}
"""Horizontal lines, as they have one size; the head alone has no place on an axis of parameters without the head."""
MARKERS = "osv^DPX*<"
"""Nine, beside ten colours: the first ninety methods look different."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a grid.

    Attributes:
        size: the value of the method's size field; None as the method has it by itself.
    """

    method: str
    size: int | None
    seed: int

    @property
    def name(self) -> str:
        """Of its folder: METHOD-SIZE-SEED."""
        return "-".join(str(part) for part in (self.method, self.size, self.seed) if part is not None)


def grid(sizes: Mapping[str, Sequence[int | None]], seeds: Sequence[int]) -> list[Run]:
    """Every method in every size with every seed; seed by seed, so that an unfinished grid compares like with like."""
    return [Run(method, size, seed) for seed in seeds for method in sizes for size in sizes[method]]


def measures(result: Mapping[str, Any], artefact_bytes: int) -> dict[str, Any]:
    """What a comparison says of a finished run, from its result.json and the size of its artefact's files."""
    parameters = result["parameters"]
    return {
        "metrics": result["metrics"],
        "parameters": parameters["trained"] - parameters["head"],
        "head_parameters": parameters["head"],
        "share": parameters["share"],
        "artefact_bytes": artefact_bytes,
        "rows_per_second": result["rows_per_second"],
        "peak_memory_bytes": result.get("peak_memory_bytes", 0),
        "seconds": result["seconds"],
    }


@dataclasses.dataclass(frozen=True)
class Row:
    """One method in one size, over its finished seeds.

    Attributes:
        lr: the learning rate.
        runs: how many seeds.
        score: the mean.
        spread: the standard deviation (n - 1); None for a single run.
        parameters: trained, without the head.
        share: of the backbone.
        artefact_bytes: of the first run.
        rows_per_second: the mean.
        peak_memory_bytes: the largest.
    """

    method: str
    size: int | None
    lr: float
    runs: int
    score: float
    spread: float | None
    parameters: int
    share: float
    artefact_bytes: int
    rows_per_second: float
    peak_memory_bytes: int


def rows(records: Iterable[Mapping[str, Any]], metric: str) -> list[Row]:
    """The finished runs, gathered by method and size, in the order in which they first appear.

    Args:
        records: of each run method, size, lr and its `measures`, or its `error`.
        metric: the score.
    """
    groups: dict[tuple[str, int | None], list[Mapping[str, Any]]] = {}
    for line in [line for line in records if "error" not in line]:
        groups.setdefault((line["method"], line["size"]), []).append(line)
    return [_row(group, metric) for group in groups.values()]


def _row(group: Sequence[Mapping[str, Any]], metric: str) -> Row:
    first, scores = group[0], [line["metrics"][metric] for line in group]
    return Row(
        **{name: first[name] for name in ("method", "size", "lr", "parameters", "share", "artefact_bytes")},
        runs=len(group),
        score=statistics.mean(scores),
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        rows_per_second=statistics.mean(line["rows_per_second"] for line in group),
        peak_memory_bytes=max(line["peak_memory_bytes"] for line in group),
    )


def report(records: Sequence[Mapping[str, Any]], metric: str, title: str) -> str:
    """The table under a heading, and below it the runs that failed."""
    failed = [f"\n{line['folder']} failed: {line['error']}\n" for line in records if "error" in line]
    return f"# {title}\n\n{table(rows(records, metric), metric)}\n{''.join(failed)}"


def table(rows: Sequence[Row], metric: str) -> str:
    """The rows in Markdown; scores in points, that is times 100."""
    header = ("method", "size", "rate", metric, "seeds", "parameters", "share", "artefact", "rows/s", "peak memory")
    lines = [header, ("---",) * len(header), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        "-" if row.size is None else str(row.size),
        f"{row.lr:g}",
        f"{100 * row.score:.1f}" + ("" if row.spread is None else f" ± {100 * row.spread:.1f}"),
        str(row.runs),
        f"{row.parameters:,}",
        f"{row.share:.3%}",
        f"{row.artefact_bytes / 1e6:.2f} MB",
        f"{row.rows_per_second:.1f}",
        f"{row.peak_memory_bytes / 1e6:,.0f} MB",
    )


def figure(rows: Sequence[Row], metric: str, title: str) -> Any:
    """Score against trained parameters, as a matplotlib Figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 5), layout="constrained")
    axes = drawing.add_subplot()
    axes.set_xscale("log")
    axes.set(xlabel="trained parameters, without the head", ylabel=f"{metric}, points", title=title)
    markers = itertools.cycle(MARKERS)
    for method, group in itertools.groupby(sorted(rows, key=lambda row: row.method), lambda row: row.method):
        own = sorted(group, key=lambda row: row.parameters)
        scores = [100 * row.score for row in own]
        if method in REFERENCES:
            axes.axhline(scores[0], color="gray", linestyle=REFERENCES[method], linewidth=1, label=method)
            continue
        style = dict(fmt=f"{next(markers)}-", label=method)
        if method == BASELINE:
            style = dict(fmt="o--", color="black", label="top-n fine-tuning (baseline)")
        bars = [100 * (row.spread or 0.0) for row in own]
        axes.errorbar([row.parameters for row in own], scores, bars if any(bars) else None, capsize=3, **style)
    if rows:
        drawing.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return drawing
