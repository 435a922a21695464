"""`adapters-jax convert`: there and back bit for bit, formats told apart by files, every refusal one line."""

import json
import re
import shlex
import shutil
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import cli, testing
from adapters_jax.artefact import read_manifest
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.flags import fill, merge, read_argv
from adapters_jax.interop import save_adapterhub, save_hf, save_peft
from adapters_jax.interop.sources import kind_of
from tests.interop.drawn import LABELS, drawn
from tests.refusal import refused


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    aj.save_adapter(folder, *drawn(tiny, aj.LoRA(rank=2, alpha=4.0)), tiny, task="rte")
    return folder


def convert(source: Path, out: Path, *flags: str) -> None:
    cli.main(["convert", f"--from={source}", f"--out={out}", *flags])


@pytest.mark.parametrize("kind", ["peft", "adapterhub"])
def test_there_and_back(kind: str, saved: Path, tiny, tmp_path: Path, capsys):
    _, params = aj.load_adapter(saved, tiny)
    convert(saved, tmp_path / "theirs", f"--to={kind}")
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "out": str(tmp_path / "theirs"),
        "from": {"format": "native", "name": str(saved), "revision": None},
        "to": kind,
        "method": "lora",
    }
    assert kind_of(tmp_path / "theirs") == kind
    labels = [f"--labels={','.join(LABELS)}"] if kind == "peft" else []
    convert(tmp_path / "theirs", tmp_path / "ours", "--to=native", *labels)  # its files name the backbone's folder
    again, found = aj.load_adapter(tmp_path / "ours", tiny)
    assert again.head.labels == LABELS
    testing.assert_same(
        {part: found[part] for part in ("adapters", "head")}, {p: params[p] for p in ("adapters", "head")}
    )
    origin = read_manifest(tmp_path / "ours")["extra"]["converted_from"]
    assert origin == {"format": kind, "name": str(tmp_path / "theirs"), "revision": None}
    direct = aj.load_adapter(tmp_path / "theirs", tiny, **({"labels": LABELS} if kind == "peft" else {}))
    assert direct[0] == again
    testing.assert_same(direct[1], found)


def test_an_adapter_of_a_quantised_backbone_goes_elsewhere_on_the_float_one(tiny, tmp_path: Path, capsys):
    name = str(tiny.name)
    coarse = aj.load_backbone(name, quantize="nf4")
    model = aj.Model(coarse.config, aj.LoRA(rank=2, alpha=4.0), aj.Classification(labels=LABELS))
    params = model.init(jax.random.key(0), coarse.params)
    params |= {part: testing.perturb(params[part]) for part in ("adapters", "head")}
    aj.save_adapter(tmp_path / "saved", model, params, coarse)
    given = ["convert", f"--from={tmp_path / 'saved'}", f"--out={tmp_path / 'theirs'}", "--to=peft"]
    assert "--quantize=none" in refused(capsys, cli.main, given)
    cli.main([*given, "--quantize=none"])
    _, found = aj.load_adapter(tmp_path / "theirs", tiny, labels=LABELS)
    testing.assert_same(found["adapters"], params["adapters"])


def test_to_plain_weights(saved: Path, tiny, tmp_path: Path):
    convert(saved, tmp_path / "plain", "--to=hf")
    found = load_file(tmp_path / "plain" / "model.safetensors")
    assert found["classifier.weight"].shape == (3, 16) and (tmp_path / "plain" / "tokenizer.json").is_file()


def test_ours_to_ours_are_the_same_files(saved: Path, tmp_path: Path):
    convert(saved, tmp_path / "out", "--to=native")
    for path in saved.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_what_is_refused(saved: Path, tiny, tmp_path: Path, capsys):
    def told(*argv: str) -> str:
        return refused(capsys, cli.main, ["convert", *argv])

    source, out = f"--from={saved}", f"--out={tmp_path / 'out'}"
    assert "--from: expected a text, got nothing" in told("--to=peft")
    assert "--to: expected one of native, peft, adapterhub, hf, got nothing" in told(source, out)
    assert "--to: expected one of native, peft, adapterhub, hf, got 'torch'" in told(source, out, "--to=torch")
    assert "--out: expected a folder to write, got nothing" in told(source, "--to=peft")
    assert "expected a new or empty folder, found files in it" in told(source, f"--out={saved}", "--to=peft")
    assert "--dry-run: expected --push-to-hub=user/name beside it" in told(source, out, "--to=peft", "--dry-run")
    assert "labels: expected none" in told(source, out, "--to=peft", "--labels=a,b,c")
    assert "labels: expected none" in told(source, out, "--to=native", "--labels=a,b,c")
    assert "--license: expected --push-to-hub=user/name beside it" in told(source, out, "--to=peft", "--license=mit")
    assert "expected the folder of an adapter, found none" in told(f"--from={tmp_path / 'no'}", out, "--to=native")
    assert "expected a folder with config.json" in told(source, out, "--to=peft", "--backbone=./none")

    aj.save_adapter(tmp_path / "houlsby", *drawn(tiny, aj.Houlsby(bottleneck=4)), tiny)
    assert "houlsby cannot be folded into the backbone" in told(f"--from={tmp_path / 'houlsby'}", out, "--to=hf")
    assert "method houlsby: peft has no counterpart" in told(f"--from={tmp_path / 'houlsby'}", out, "--to=peft")

    damaged = Path(shutil.copytree(saved, tmp_path / "damaged"))
    weights = load_file(damaged / "adapter.safetensors")
    save_file({name: leaf + 1 for name, leaf in weights.items()}, damaged / "adapter.safetensors")
    assert "adapter.safetensors: expected sha256" in told(f"--from={damaged}", out, "--to=native")
    assert not (tmp_path / "out").exists()

    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    named = told(f"--from={tmp_path / 'peft'}", out, "--to=native")
    assert "names no backbone, expected --backbone: a hub id, a local folder, or minilm" in named


def test_formats_are_told_by_their_files(saved: Path, tmp_path: Path, tiny):
    assert (kind_of(saved), kind_of(tmp_path)) == ("native", "none")
    (tmp_path / "head_config.json").write_text("{}")
    assert kind_of(tmp_path) == "adapterhub"
    (tmp_path / "adapter_config.json").write_text('{"peft_type": null}')
    assert kind_of(tmp_path) == "peft"
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(AdapterError, match=r"adapter_config\.json: expected readable JSON"):
        aj.load_adapter(tmp_path, tiny)
    with pytest.raises(ConfigError, match="labels: expected none, since its own files name the classes"):
        aj.load_adapter(saved, tiny, labels=LABELS)


ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    line
    for page in ("README.md", "docs/exchange.md")
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for line in block.splitlines()
    if "adapters-jax convert" in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_guides_are_understood(command: str):
    _, name, *argv = shlex.split(command, comments=True)
    flags = fill(cli.COMMANDS[name][0], merge(read_argv(argv)))
    assert flags.to or flags.push_to_hub or flags.allow_pickle


def test_the_guide_s_module_runs(tiny):
    model, params = drawn(tiny, aj.LoRA(rank=2))
    (block,) = [
        text
        for text in re.findall(r"```python\n(.*?)```", (ROOT / "docs/exchange.md").read_text(), re.DOTALL)
        if "to_nnx" in text
    ]
    scope: dict = {"model": model, "params": params}
    exec(compile(block, "docs/exchange.md", "exec"), scope)
    assert scope["output"].logits.shape == (1, 3)
    testing.assert_same(scope["params"], params)


def test_labels_of_adapterhub_s_classes_that_have_none(saved: Path, tiny, tmp_path: Path):
    theirs = tmp_path / "theirs"
    convert(saved, theirs, "--to=adapterhub")
    config = json.loads((theirs / "head_config.json").read_text())
    with pytest.raises(ConfigError, match="labels: expected none, since its own files name the classes"):
        aj.load_adapter(theirs, tiny, labels=("a", "b", "c"))
    config["config"]["label2id"] = None
    (theirs / "head_config.json").write_text(json.dumps(config))
    assert aj.load_adapter(theirs, tiny)[0].head.labels == ("0", "1", "2")
    with pytest.raises(ConfigError, match="labels: expected 3 names, one for each class, got 2"):
        aj.load_adapter(theirs, tiny, labels=("a", "b"))
    convert(theirs, tmp_path / "ours", "--to=native", f"--labels={','.join(LABELS)}")
    assert aj.load_adapter(tmp_path / "ours", tiny)[0] == aj.load_adapter(saved, tiny)[0]


def test_an_older_adapter_of_another_form_is_not_mixed_in(saved: Path, tiny, tmp_path: Path):
    """It would be read beside the new one, or in its place."""
    lora, bare = drawn(tiny, aj.LoRA(rank=2)), drawn(tiny, aj.LoRA(rank=2), aj.NoHead())
    stack = drawn(tiny, aj.Stack((aj.Pfeiffer(bottleneck=4), aj.Pfeiffer(bottleneck=4))))
    others = {
        "native": lambda folder: aj.save_adapter(folder, *lora, tiny),
        "peft": lambda folder: save_peft(folder, *lora, tiny),
        "adapterhub": lambda folder: save_adapterhub(folder, *lora, tiny),
        "bare": lambda folder: save_adapterhub(folder, *bare, tiny),
        "stack": lambda folder: save_adapterhub(folder, *stack, tiny),
        "hf": lambda folder: save_hf(folder, *lora, tiny),
        "pickled": lambda folder: (folder.mkdir(), (folder / "pytorch_adapter.bin").write_bytes(b"")),
    }
    savers = [name for name in others if name not in ("native", "pickled")]
    mixed = {(new, old) for new in savers for old in others if old not in (new, "hf")} - {("adapterhub", "bare")}
    for new, old in mixed:
        folder = tmp_path / f"{new}-{old}"
        others[old](folder)
        before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
        with pytest.raises(AdapterError, match="expected a new folder, or one whose adapter is replaced as a whole"):
            others[new](folder)
        assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before, (new, old)
    for name in savers:  # its own form is replaced, and a head is added
        others[name](tmp_path / name)
        others[name](tmp_path / name)
    others["adapterhub"](tmp_path / "bare")
    assert aj.load_adapter(tmp_path / "bare", tiny)[0].head.labels == LABELS
