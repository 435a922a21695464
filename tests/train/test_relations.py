"""K-Adapter's jobs from end to end, on tiny files: two adapters pre-trained, then both used as they are."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.data.relations import SEMEVAL
from tests.refusal import refused
from train import dependencies, glue, relations

pytestmark = pytest.mark.slow

WORDS = ("cat", "dog", "man", "woman", "good", "bad")
NETWORK = ["--method=k_adapter", "--method.inner=8", "--method.inner-layers=1"]


def write_trex(path: Path, count: int) -> Path:
    rows = [
        {
            "uuid": f"u{n}",
            "relation": f"P{n % 3}",
            "sub_surface": WORDS[n % 6],
            "obj_surface": WORDS[(n + 1) % 6],
            "masked_sentence": f"the {WORDS[n % 6]} is {'not ' * (n % 3)}in [MASK] .",
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_semeval(path: Path, count: int) -> Path:
    kinds = [SEMEVAL[0], SEMEVAL[1], SEMEVAL[8], "Other"]
    blocks = [
        f'{n}\t"the <e1>{WORDS[n % 6]}</e1> is {"not " * (n % 4)}a <e2>{WORDS[(n + 2) % 6]}</e2> ."\n{kinds[n % 4]}\n'
        for n in range(1, count + 1)
    ]
    path.write_text("Comment:\n\n".join([*blocks, ""]))
    return path


def write_conllu(path: Path, count: int) -> Path:
    sentences = []
    for n in range(count):
        words = ["the", WORDS[n % 6], "is", WORDS[(n + 3) % 6]][: 3 + n % 2]
        heads = [2, 3, 0, 3]
        lines = [f"{i}\t{w}\t_\t_\t_\t_\t{h}\t_\t_\t_" for i, (w, h) in enumerate(zip(words, heads, strict=False), 1)]
        sentences.append("\n".join(lines) + "\n")
    path.write_text("\n".join(sentences) + "\n")
    return path


class Place:
    """Files, a backbone and the runs on them."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder, self.backbone = folder, backbone
        self.trex, self.trex_dev = write_trex(folder / "train.jsonl", 24), write_trex(folder / "dev.jsonl", 9)
        self.semeval, self.semeval_dev = (
            write_semeval(folder / name, count) for name, count in (("TRAIN_FILE.TXT", 24), ("TEST_FILE.TXT", 10))
        )
        self.trees, self.trees_dev = (
            write_conllu(folder / name, count) for name, count in (("a.conllu", 24), ("b.conllu", 8))
        )
        self.common = [
            f"--backbone={backbone}",
            f"--cache-dir={folder / 'cache'}",
            "--max-length=32",
            "--batch-size=8",
            "--eval-batch-size=4",
            "--steps=6",
            "--eval-every=3",
            "--save-every=3",
            "--lr=1e-3",
        ]

    def factual(self, out: Path, *more: str) -> None:
        relations.main([f"--train={self.trex}", f"--dev={self.trex_dev}", *self.common, *more, f"--out-dir={out}"])

    def linguistic(self, out: Path, *more: str) -> None:
        dependencies.main([f"--train={self.trees}", f"--dev={self.trees_dev}", *self.common, *more, f"--out-dir={out}"])

    def downstream(self, out: Path, *more: str) -> None:
        files = [f"--train={self.semeval}", f"--dev={self.semeval_dev}", f"--test={self.semeval_dev}"]
        relations.main([*files, *self.common, *more, f"--out-dir={out}"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Place:
    return Place(tmp_path_factory.mktemp("k_adapter"), backbone_folder)


@pytest.fixture(scope="module")
def factual(place: Place) -> Path:
    place.factual(place.folder / "fac", *NETWORK)
    return place.folder / "fac"


@pytest.fixture(scope="module")
def linguistic(place: Place) -> Path:
    place.linguistic(place.folder / "lin", *NETWORK)
    return place.folder / "lin"


@pytest.fixture(scope="module")
def both(factual: Path, linguistic: Path) -> str:
    return f"--adapters=factual={factual / 'adapter'},linguistic={linguistic / 'adapter'}"


@pytest.fixture(scope="module")
def finished(place: Place, both: str) -> Path:
    place.downstream(place.folder / "sem", *NETWORK, both)
    return place.folder / "sem"


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def leaves(run: Path, prefix: str) -> dict[str, str]:
    """The sha256 of each leaf of a network, by its place in it."""
    stored = load_file(run / "adapter" / "adapter.safetensors")
    return {
        path.removeprefix(prefix): hashlib.sha256(leaf.tobytes()).hexdigest()
        for path, leaf in stored.items()
        if path.startswith(prefix)
    }


def test_the_factual_adapter_is_scored_on_relations(factual: Path):
    found = result(factual)
    assert (found["task"], found["method"], found["steps"]) == ("trex", "k_adapter", 6)
    assert set(found["metrics"]) == {"accuracy", "macro_f1"}
    assert found["parameters"]["backbone_trained"] == 0
    lines = [line.split("\t") for line in (factual / "predictions" / "dev.tsv").read_text().splitlines()]
    assert [name for name, _ in lines] == [f"u{n}" for n in range(9)]
    right = sum(relation == f"P{n % 3}" for n, (_, relation) in enumerate(lines))
    assert right / 9 == pytest.approx(found["metrics"]["accuracy"])


def test_the_linguistic_adapter_is_scored_on_heads(linguistic: Path):
    found = result(linguistic)
    assert (found["task"], found["steps"]) == ("dependencies", 6)
    assert list(found["metrics"]) == ["uas"] and 0 < found["metrics"]["uas"] <= 1
    manifest = json.loads((linguistic / "adapter" / "manifest.json").read_text())
    assert manifest["head"]["name"] == "dependency" and manifest["data"] == "a.conllu"


def test_downstream_the_adapters_stay_as_they_were_to_the_last_bit(finished: Path, factual: Path, linguistic: Path):
    for name, run in (("factual", factual), ("linguistic", linguistic)):
        before = leaves(run, "adapters/output/adapter/")
        assert len(before) == 2 * (2 * 2 + 16)  # two states, one layer inside each
        assert leaves(finished, f"adapters/output/{name}/") == before
    assert leaves(factual, "adapters/output/adapter/") != leaves(linguistic, "adapters/output/adapter/")


def test_downstream_the_dense_layers_and_the_head_learn(finished: Path, place: Place, both: str):
    backbone = aj.load_backbone(str(place.backbone))
    model, params = aj.load_adapter(finished / "adapter", backbone)
    assert model.method.adapters == ("factual", "linguistic") and not model.method.train_adapters
    parsed = relations.flags.parse(
        [f"--train={place.semeval}", f"--dev={place.semeval_dev}", *place.common, *NETWORK, both], cls=relations.Flags
    )
    config = relations.flags.resolve(relations.with_adapters(parsed))
    start = relations.initialise(config, model, backbone)
    changed = {"/".join(path.split("/")[:3]) for path in trees.diff(start, params)}
    assert changed == {"adapters/output/combine", "head/classifier/kernel", "head/classifier/bias"}
    found = result(finished)
    assert set(found["metrics"]) == {"semeval", "accuracy", "semeval_test", "accuracy_test"}
    assert found["metrics"]["semeval"] == found["metrics"]["semeval_test"]
    wide = 3 * (2 * 16 * 16 + 16)
    assert found["parameters"]["trained"] == wide + 32 * 19 + 19


def test_predictions_are_what_the_official_scorer_reads(finished: Path):
    for name in ("dev", "test"):
        lines = [line.split("\t") for line in (finished / "predictions" / f"{name}.tsv").read_text().splitlines()]
        assert [number for number, _ in lines] == [str(n) for n in range(1, 11)]
        assert {relation for _, relation in lines} <= set(SEMEVAL)


def test_the_written_configuration_repeats_the_run(finished: Path, place: Place, tmp_path: Path):
    stored = yaml.safe_load((finished / "config.yaml").read_text())
    assert stored["method"]["adapters"] == ["factual", "linguistic"] and stored["method"]["train_adapters"] is False
    again = [f"--out-dir={tmp_path / 'again'}", f"--cache-dir={place.folder / 'cache'}"]
    relations.main([f"--config={finished / 'config.yaml'}", *again])
    same = "adapter/adapter.safetensors"
    assert (tmp_path / "again" / same).read_bytes() == (finished / same).read_bytes()


@pytest.mark.parametrize("stage", ["factual", "linguistic", "downstream"])
def test_every_stage_goes_on_where_it_was_killed(
    stage: str, place: Place, factual: Path, linguistic: Path, finished: Path, both: str, tmp_path: Path
):
    """As after a kill between steps 3 and 6: nothing of the end is there."""
    whole = {"factual": factual, "linguistic": linguistic, "downstream": finished}[stage]
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "result.json").unlink()
    shutil.rmtree(run / "adapter")
    last = max((path for path in (run / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    assert last.name == "6"
    shutil.rmtree(last)
    getattr(place, stage)(run, *NETWORK, *([both] if stage == "downstream" else []))
    assert '"resumed_from": 3' in (run / "metrics.jsonl").read_text()
    same = "adapter/adapter.safetensors"
    assert (run / same).read_bytes() == (whole / same).read_bytes()


def test_a_finished_run_prints_its_result(finished: Path, place: Place, both: str, capsys: pytest.CaptureFixture):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    place.downstream(finished, *NETWORK, both)
    assert "already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_one_adapter_none_and_a_tuned_backbone(place: Place, factual: Path, tmp_path: Path):
    place.downstream(tmp_path / "none", "--method=head", "--steps=2")
    assert result(tmp_path / "none")["parameters"]["adapter"] == 0
    one = f"--adapters=factual={factual / 'adapter'}"
    place.downstream(tmp_path / "one", *NETWORK, one, "--method.tune-backbone=true", "--steps=2")
    assert leaves(tmp_path / "one", "adapters/output/factual/") == leaves(factual, "adapters/output/adapter/")
    counts = result(tmp_path / "one")["parameters"]
    assert counts["backbone_trained"] == counts["backbone"]
    assert "backbone/encoder/0/query/kernel" in load_file(tmp_path / "one" / "adapter" / "adapter.safetensors")


def test_a_downstream_artefact_gives_its_adapters_on(finished: Path, place: Place, tmp_path: Path):
    """Of several adapters, the one of the same name is taken."""
    place.downstream(tmp_path / "on", *NETWORK, f"--adapters=linguistic={finished / 'adapter'}", "--steps=2")
    assert leaves(tmp_path / "on", "adapters/output/linguistic/") == leaves(finished, "adapters/output/linguistic/")


def test_artefacts_that_do_not_fit_are_refused_by_name(
    place: Place, factual: Path, linguistic: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    run = lambda given, *more: refused(
        capsys, place.downstream, tmp_path / "run", *NETWORK, f"--adapters=factual={given}", *more
    )
    assert f"--adapters=factual={tmp_path / 'none'}: " in (line := run(tmp_path / "none"))
    assert "expected the folder of an adapter, found none" in line

    damaged = shutil.copytree(factual / "adapter", tmp_path / "damaged")
    content = bytearray((damaged / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "adapter.safetensors").write_bytes(content)
    line = run(damaged)
    assert f"--adapters=factual={damaged}" in line and "sha256" in line

    line = run(factual / "adapter", "--method.layers=0,2")
    assert "adapter factual: expected layers 0,2, as the method has, got 0,1; give --method.layers=0,1" in line
    line = run(factual / "adapter", "--method.inner=4")
    assert "adapter factual: expected inner 4, as the method has, got 8" in line

    place.factual(tmp_path / "houlsby", "--method=houlsby", "--method.bottleneck=4", "--steps=1")
    assert "expected one that method k_adapter trained, got one of houlsby" in run(tmp_path / "houlsby" / "adapter")

    other = Place(tmp_path, testing.write_backbone(tmp_path / "other", BertConfig.tiny(), seed=1))
    line = refused(capsys, other.downstream, tmp_path / "run", *NETWORK, f"--adapters=factual={factual / 'adapter'}")
    assert "--adapters=factual=" in line and "expected the backbone it was trained on" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--adapters=factual"], "--adapters: expected name=folder,name=folder, each name once, got 'factual'"),
        (["--adapters=a=x,a=y"], "--adapters: expected name=folder,name=folder, each name once, got 'a=y'"),
        (["--adapters=a=x", "--method=houlsby"], "--adapters: expected --method=k_adapter, got houlsby"),
        (["--adapters=a=x", "--method=k_adapter", "--init-adapter=y"], "no --init-adapter and no --on beside it"),
        (
            ["--adapters=a=x", "--method=k_adapter", "--method.adapters=b"],
            "--method.adapters: expected the names of --adapters",
        ),
        (["--adapters=a/b=x", "--method=k_adapter"], "method.adapters: expected names of letters"),
        (["--format=conll"], "--format: expected one of auto, trex, semeval, got 'conll'"),
        (["--dev=none.txt"], "none.txt: expected a text file, got: No such file or directory"),
        (["--format=trex"], "TRAIN_FILE.TXT:1: expected a JSON object"),
        (["--max-length=7"], "max_length: expected at least 8 for these rows, got 7"),
    ],
)
def test_flags_at_fault_are_one_line(
    place: Place, more: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert match in refused(capsys, place.downstream, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_missing_files_are_one_line(place: Place, capsys: pytest.CaptureFixture):
    assert "--train: expected a file with relations, got none" in refused(capsys, relations.main, [])
    assert "--dev: expected a file with relations" in refused(capsys, relations.main, ["--train=a.txt"])
    assert "endings .jsonl" in refused(capsys, relations.main, ["--train=a.csv", "--dev=b.csv"])
    assert "--train: expected a treebank in CoNLL-U" in refused(capsys, dependencies.main, [])
    bad = [f"--train={place.trex}", f"--dev={place.trees_dev}", *place.common, "--method=head"]
    assert "train.jsonl:1: expected 10 tab-separated columns" in refused(capsys, dependencies.main, bad)


def test_recipes_are_those_of_the_release():
    resolved = lambda module, *argv: (
        module.flags.resolve(module.flags.parse([*argv, "--method=k_adapter"], cls=module.Flags)).flags
    )
    factual = resolved(relations, "--train=a.jsonl", "--dev=b.jsonl")
    assert (factual.lr, factual.epochs, factual.batch_size, factual.weight_decay) == (5e-5, 5.0, 64, 0.0)
    assert factual.out_dir == "runs/trex-k_adapter-0"
    linguistic = resolved(dependencies, "--train=a", "--dev=b")
    assert (linguistic.lr, linguistic.epochs, linguistic.batch_size) == (2e-5, 10.0, 32)
    downstream = resolved(relations, "--train=a.txt", "--dev=b.txt", "--method.train-adapters=false")
    assert (downstream.lr, downstream.batch_size, downstream.out_dir) == (1e-5, 32, "runs/semeval-k_adapter-0")


def test_help_and_bad_flags_do_not_wait_for_jax():
    code = "import sys, train.relations, train.dependencies; print([m for m in ('jax', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_example_of_the_guide_runs(factual: Path, place: Place, repo: Path):
    (block,) = re.findall(r"```python\n(.*?)```", (repo / "docs" / "k_adapter.md").read_text(), flags=re.DOTALL)
    block = block.replace('"minilm"', repr(str(place.backbone))).replace("runs/fac", str(factual))
    scope: dict = {}
    exec(compile(block, "k_adapter.md", "exec"), scope)
    taken, own = scope["params"]["adapters"]["output"]["factual"], scope["leaves"]["adapters"]["output"]["adapter"]
    testing.assert_same(taken, own)


def test_an_adapter_is_a_start_for_glue_too(factual: Path, place: Place, glue_folder: Path, tmp_path: Path):
    glue.main(
        [
            *("--task=rte", f"--data-dir={glue_folder}", *place.common, *NETWORK, "--steps=2"),
            *(f"--init-adapter={factual / 'adapter'}", f"--out-dir={tmp_path / 'rte'}"),
        ]
    )
    assert "accuracy" in result(tmp_path / "rte")["metrics"]
