"""From adapters of single tasks to what is made of several: fusion, pruning, dropping, stacking, multi-task runs."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapters_jax import cli
from tests.refusal import refused
from tests.train.conftest import rte_rows, write_rte
from train import fuse, glue, multitask

pytestmark = pytest.mark.slow


class Place:
    """A folder of runs over one backbone and one set of GLUE files."""

    def __init__(self, folder: Path, backbone: Path, data: Path) -> None:
        self.folder = folder
        self.common = [f"--backbone={backbone}", f"--data-dir={data}"]
        self.training = [
            *("--max-length=32", "--batch-size=8", "--eval-batch-size=8", "--eval-rows=12", "--train-rows=24"),
            f"--cache-dir={folder / 'cache'}",
        ]

    def run(self, job: Callable, out: str, *argv: str, steps: int = 2) -> Path:
        out_dir = self.folder / out
        job([*self.common, *self.training, f"--steps={steps}", f"--out-dir={out_dir}", *argv])
        return out_dir

    def command(self, *argv: str) -> None:
        cli.main([*argv, *self.common])


def leaves(folder: Path, prefix: str = "adapters/") -> dict[str, str]:
    """sha256 of each leaf of an artefact, by its path below the prefix."""
    flat = load_file(folder / "adapter.safetensors")
    return {
        path.removeprefix(prefix): hashlib.sha256(leaf.tobytes()).hexdigest()
        for path, leaf in flat.items()
        if path.startswith(prefix)
    }


def write_mrpc(folder: Path) -> None:
    rows = [row.split("\t") for row in rte_rows(24)[1:]]
    lines = [f"{int(label == 'entailment')}\t{n}\t{n}\t{first}\t{second}" for n, first, second, label in rows]
    (folder / "MRPC").mkdir()
    for name, part in (("train", lines), ("dev", lines[:10])):
        (folder / "MRPC" / f"{name}.tsv").write_text("\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *part]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Place:
    folder = tmp_path_factory.mktemp("several")
    write_mrpc(write_rte(folder / "glue"))
    return Place(folder, backbone_folder, folder / "glue")


@pytest.fixture(scope="module")
def single(place: Place) -> dict[str, Path]:
    """Two tasks' adapters, of unlike widths."""
    return {
        task: place.run(glue.main, task, f"--task={task}", "--method=pfeiffer", f"--method.bottleneck={width}")
        / "adapter"
        for task, width in (("rte", 4), ("mrpc", 6))
    }


@pytest.fixture(scope="module")
def fused(place: Place, single: dict[str, Path]) -> Path:
    given = f"--adapters={single['rte']},second={single['mrpc']}"
    return place.run(fuse.main, "fused", "--task=rte", given, "--method.dropout=0.0")


def test_a_fusion_keeps_its_adapters_bit_for_bit(single, fused):
    for name, task in (("rte", "rte"), ("second", "mrpc")):
        assert leaves(fused / "adapter", f"adapters/{name}/") == leaves(single[task])


def test_its_attention_is_in_the_result_and_drawn(fused, capsys):
    shares = json.loads((fused / "result.json").read_text())["attention"]["ffn_merge"]
    assert list(shares) == ["0", "1"]
    for cell in shares.values():
        assert list(cell) == ["rte", "second"]
        np.testing.assert_allclose(sum(cell.values()), 1.0, rtol=1e-5)
    cli.main(["inspect", str(fused / "adapter"), "--fusion"])
    drawn = capsys.readouterr().out
    assert "layer 1" in drawn and f"{shares['1']['second']:.3f}" in drawn


def test_a_fusion_resumes_and_predicts(place, single, fused, capsys, tmp_path):
    given = f"--adapters={single['rte']},second={single['mrpc']}"
    place.run(fuse.main, "fused", "--task=rte", given, "--method.dropout=0.0")
    assert "already finished" in capsys.readouterr().out
    (tmp_path / "in.txt").write_text("the cat is good\tthe dog\n")
    cli.main(["predict", f"--adapter={fused / 'adapter'}", f"--input={tmp_path / 'in.txt'}", place.common[0]])
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"entailment", "not_entailment"}


def test_pruning_writes_a_smaller_fusion(place, single, capsys, tmp_path):
    three = f"--adapters={single['rte']},second={single['mrpc']},third={single['mrpc']}"
    whole = place.run(fuse.main, "three", "--task=rte", three) / "adapter"
    capsys.readouterr()
    place.command("prune", f"--adapter={whole}", f"--out={tmp_path / 'two'}", "--keep=2")
    found = json.loads(capsys.readouterr().out)
    assert len(found["kept"]) == 2 and found["speed"] > 0 and set(found["before"]) == {"accuracy"}
    shares = found["attention"]
    assert min(shares[name] for name in found["kept"]) >= max(shares[name] for name in shares.keys() - found["kept"])
    for name in found["kept"]:
        assert leaves(tmp_path / "two", f"adapters/{name}/") == leaves(whole, f"adapters/{name}/")
    place.command("evaluate", f"--adapter={tmp_path / 'two'}")
    assert "equal to the recorded scores" in capsys.readouterr().err


def test_what_cannot_be_fused_is_refused_by_name(place, single, capsys, tmp_path):
    tuned = place.run(glue.main, "houlsby", "--task=rte", "--method.bottleneck=4") / "adapter"
    fusing = lambda *given: lambda: place.run(fuse.main, "bad", "--task=rte", f"--adapters={','.join(map(str, given))}")
    assert "layer-norms=false" in refused(capsys, fusing(single["mrpc"], f"other={tuned}"))
    assert str(tmp_path / "none") in refused(capsys, fusing(single["mrpc"], tmp_path / "none"))
    assert "expected NAME=" in refused(capsys, fusing(single["mrpc"], single["mrpc"]))
    assert "at least 2 adapters" in refused(capsys, fusing(single["mrpc"]))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in single["rte"].iterdir():
        (damaged / file.name).write_bytes(
            file.read_bytes()[:-1] + b"\0" if file.suffix != ".json" else file.read_bytes()
        )
    assert str(damaged) in refused(capsys, fusing(single["mrpc"], damaged))
    assert not (place.folder / "bad").exists()


@pytest.mark.parametrize("drop", ["1", "robust"])
def test_dropping_in_training_and_evaluation(place, capsys, drop):
    out = place.run(glue.main, f"drop-{drop}", "--task=rte", f"--drop={drop}", "--method.bottleneck=4")
    layers = {path.split("/")[1] for path in leaves(out / "adapter")}
    assert layers == ({"1"} if drop == "1" else {"0", "1"})
    assert not leaves(out / "adapter", "backbone/")  # the LayerNorms stay as they are
    capsys.readouterr()
    figure = place.folder / f"{drop}.png"
    place.command("evaluate", f"--adapter={out / 'adapter'}", "--drop=0,1,2", f"--figure={figure}")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["drop"] for line in lines] == ([1, 2] if drop == "1" else [0, 1, 2])
    recorded = json.loads((out / "result.json").read_text())["metrics"]
    assert lines[0]["metrics"] == recorded
    assert figure.stat().st_size > 1000


def test_adapters_that_changed_the_backbone_are_not_dropped(place, capsys):
    out = place.run(glue.main, "houlsby", "--task=rte", "--method.bottleneck=4")
    line = refused(capsys, lambda: place.command("evaluate", f"--adapter={out / 'adapter'}", "--drop=1"))
    assert "embeddings/norm/scale" in line and "--method.layer-norms=false" in line


def test_nor_are_they_kept_as_they_are(place, capsys):
    out = place.run(glue.main, "houlsby", "--task=rte", "--method.bottleneck=4")
    for given in (
        ["--method=pfeiffer", f"--on={out / 'adapter'}"],
        [f"--init-adapter={out / 'adapter'}", "--freeze-adapter"],
    ):
        line = refused(capsys, lambda given=given: place.run(glue.main, "bad", "--task=rte", *given))
        assert "embeddings/norm/scale" in line and "--method.layer-norms=false" in line
    assert not (place.folder / "bad").exists()


def test_stacking_on_a_frozen_adapter(place, single):
    out = place.run(
        glue.main, "stacked", "--task=rte", "--method=pfeiffer", "--method.bottleneck=4", f"--on={single['mrpc']}"
    )
    assert leaves(out / "adapter", "adapters/pfeiffer/") == leaves(single["mrpc"])
    assert leaves(out / "adapter", "adapters/pfeiffer_2/")


def test_a_frozen_adapter_under_a_new_head(place, single, capsys):
    given = ["--task=rte", "--method=pfeiffer", "--method.bottleneck=6", f"--init-adapter={single['mrpc']}"]
    out = place.run(glue.main, "frozen", *given, "--freeze-adapter")
    assert leaves(out / "adapter") == leaves(single["mrpc"])
    assert json.loads((out / "result.json").read_text())["parameters"]["trained"] == 16 * 2 + 2
    moved = place.run(glue.main, "moved", *given)
    assert leaves(moved / "adapter") != leaves(single["mrpc"])
    dropped = place.run(glue.main, "frozen-dropped", *given, "--freeze-adapter", "--drop=1")
    assert leaves(dropped / "adapter") == {
        k: v for k, v in leaves(single["mrpc"]).items() if k.startswith("encoder/1/")
    }
    both = lambda: place.run(glue.main, "bad", *given, f"--on={single['mrpc']}")
    assert "--on: expected a fresh adapter" in refused(capsys, both)
    alone = lambda: place.run(glue.main, "bad", "--task=rte", "--freeze-adapter")
    assert "expected --init-adapter" in refused(capsys, alone)


@pytest.mark.parametrize("share", [True, False])
def test_many_tasks_at_once(place, capsys, share):
    argv = ["--tasks=rte,mrpc", "--method=pfeiffer", "--method.bottleneck=4", f"--share={share}", "--sampling=uniform"]
    out = place.run(multitask.main, f"multi-{share}", *argv, steps=6)
    result = json.loads((out / "result.json").read_text())
    assert {"mean", "rte/accuracy", "mrpc/f1", "mrpc/accuracy"} <= set(result["metrics"])
    found = {task: leaves(out / task / "adapter") for task in ("rte", "mrpc")}
    assert (found["rte"] == found["mrpc"]) is share
    adapters = 2 * (2 * 16 * 4 + 4 + 16)
    assert result["parameters"]["trained"] == adapters * (1 if share else 2) + 2 * (16 * 2 + 2)
    capsys.readouterr()
    place.command("evaluate", f"--adapter={out / 'mrpc' / 'adapter'}")
    assert "equal to the recorded scores" in capsys.readouterr().err
    place.run(multitask.main, f"multi-{share}", *argv, steps=6)
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--tasks=rte"], "at least two"),
        (["--tasks=rte,rte"], "each once"),
        (["--tasks=rte,colla"], "cola"),
        (["--task=rte", "--tasks=rte,mrpc"], "got --task"),
        (["--tasks=rte,mrpc", "--temperature=0", "--sampling=temperature"], "above 0"),
        (["--tasks=rte,mrpc", "--init-adapter=x"], "without --init-adapter"),
    ],
)
def test_bad_flags_of_many_tasks(place, capsys, argv, match):
    assert match in refused(capsys, lambda: place.run(multitask.main, "bad", *argv))
