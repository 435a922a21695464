"""Grids, tables and figures of methods beside each other, from numbers small enough to check by hand."""

import sys
from typing import Any

import pytest

from adapters_jax.analysis import comparison
from adapters_jax.analysis.comparison import Run


def line(method: str, size: int | None, seed: int, score: float, **more: Any) -> dict[str, Any]:
    result = {
        "metrics": {"accuracy": score, "f1": score / 2},
        "parameters": {"trained": 1000 * (size or 1) + 10, "head": 10, "share": (size or 1) / 400},
        "rows_per_second": 10.0 * (seed + 1),
        "peak_memory_bytes": 2_000_000_000 + seed,
        "seconds": 3.0,
    }
    run = {"method": method, "size": size, "seed": seed, "lr": 5e-4, "folder": f"out/{method}-{size}-{seed}"}
    return run | comparison.measures(result, 1_234_567) | more


RECORDS = [
    line("houlsby", 8, 0, 0.50),
    line("houlsby", 64, 0, 0.80),
    line("head", None, 0, 0.40),
    line("houlsby", 8, 1, 0.54),
    {"method": "houlsby", "size": 64, "seed": 1, "lr": 5e-4, "folder": "out/houlsby-64-1", "error": "error: no"},
    line("head", None, 1, 0.40),
]


def test_a_grid_is_every_method_in_every_size_seed_by_seed():
    runs = comparison.grid({"houlsby": [8, 64], "head": [None]}, [0, 5])
    assert [run.name for run in runs] == [
        "houlsby-8-0",
        "houlsby-64-0",
        "head-0",
        "houlsby-8-5",
        "houlsby-64-5",
        "head-5",
    ]
    assert runs[2] == Run("head", None, 0)


def test_parameters_are_counted_without_the_head():
    assert (RECORDS[0]["parameters"], RECORDS[0]["head_parameters"]) == (8000, 10)


def test_means_and_spreads_are_over_the_finished_seeds():
    small, large, head = comparison.rows(RECORDS, "accuracy")
    assert (small.method, small.size, small.runs) == ("houlsby", 8, 2)
    assert small.score == pytest.approx(0.52)
    assert small.spread == pytest.approx((2 * 0.02**2) ** 0.5)  # over n - 1
    assert (small.rows_per_second, small.peak_memory_bytes) == (15.0, 2_000_000_001)
    assert (large.runs, large.score, large.spread) == (1, 0.80, None)
    assert (head.size, head.spread) == (None, 0.0)


def test_another_metric_of_the_same_runs():
    assert comparison.rows(RECORDS, "f1")[1].score == 0.40


def test_the_report_is_a_table_with_what_failed_below():
    assert comparison.report(RECORDS, "accuracy", "toy, minilm").splitlines() == [
        "# toy, minilm",
        "",
        "| method | size | rate | accuracy | seeds | parameters | share | artefact | rows/s | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| houlsby | 8 | 0.0005 | 52.0 ± 2.8 | 2 | 8,000 | 2.000% | 1.23 MB | 15.0 | 2,000 MB |",
        "| houlsby | 64 | 0.0005 | 80.0 | 1 | 64,000 | 16.000% | 1.23 MB | 10.0 | 2,000 MB |",
        "| head | - | 0.0005 | 40.0 ± 0.0 | 2 | 1,000 | 0.250% | 1.23 MB | 15.0 | 2,000 MB |",
        "",
        "out/houlsby-64-1 failed: error: no",
    ]


def axes(records: list[dict[str, Any]]) -> Any:
    return comparison.figure(comparison.rows(records, "accuracy"), "accuracy", "toy, minilm").axes[0]


def test_the_figure_has_a_logarithmic_axis_and_a_line_for_each_method():
    baseline = [line("top_n", n, 0, 0.3 + n / 10) for n in (3, 1)]
    drawn = axes([*RECORDS, *baseline, line("full", None, 0, 0.9), line("lora", 2, 0, 0.7)])
    assert drawn.get_xscale() == "log"
    assert drawn.get_title() == "toy, minilm"
    assert drawn.get_ylabel() == "accuracy, points"
    lines = {container.get_label(): container.lines[0] for container in drawn.containers}
    assert set(lines) == {"houlsby", "lora", "top-n fine-tuning (baseline)"}
    assert lines["houlsby"].get_xydata().tolist() == [[8000, pytest.approx(52)], [64000, pytest.approx(80)]]
    top = lines["top-n fine-tuning (baseline)"]
    assert top.get_xdata().tolist() == [1000, 3000]  # by parameters, not in the order of the runs
    assert (top.get_color(), top.get_linestyle()) == ("black", "--")
    across = {level.get_label(): level for level in drawn.lines if level.get_label() in ("head", "full")}
    assert {name: level.get_ydata()[0] for name, level in across.items()} == {"head": 40.0, "full": 90.0}
    assert across["head"].get_linestyle() != across["full"].get_linestyle()


@pytest.mark.parametrize("records", [[], RECORDS[2:3], RECORDS[4:5], [line("bitfit", None, 0, 0.5)]])
def test_a_figure_of_little_can_be_saved(records, tmp_path):
    figure = axes(records).figure
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_figure_needs_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "houlsby" in comparison.report(RECORDS, "accuracy", "toy")
    with pytest.raises(ImportError):
        axes(RECORDS)
