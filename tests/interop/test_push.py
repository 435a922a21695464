"""Adapters to the hub, over the loopback: what is there afterwards, the card, and what is refused."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import adapters_jax as aj
from adapters_jax import cli, manifest, testing
from adapters_jax.errors import AdapterError
from adapters_jax.interop import pickles, save_adapterhub
from adapters_jax.interop.sources import FILES, stale
from tests.interop.drawn import LABELS, drawn
from tests.interop.hub_server import Hub
from tests.refusal import refused

REPO, SOURCE = "me/films", "hf:me/films"
WEIGHTS = "adapter.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ignore_http = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub's own warning, of its HTTP library."""


def push(saved: Path, *flags: str) -> None:
    cli.main(["convert", f"--from={saved}", f"--push-to-hub={REPO}", *flags])


def header(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


@ignore_http
def test_push_and_load_again(hub: Hub, saved: Path, tiny, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    push(saved, "--license=apache-2.0", "--private")
    told = json.loads(capsys.readouterr().out)
    assert told["pushed"].startswith(f"{hub.endpoint}/{REPO}/commit/")
    pushed = hub.head(REPO)
    assert all(pushed[name] == files(saved)[name] for name in (WEIGHTS, "manifest.json"))
    assert set(pushed) == {WEIGHTS, "manifest.json", "README.md"} and REPO in hub.private
    testing.assert_same(aj.load_adapter(SOURCE, tiny)[1], aj.load_adapter(saved, tiny)[1])


def test_the_card_says_what_the_manifest_holds(hub: Hub, saved: Path, tmp_path: Path, capsys):
    push(saved, "--license=mit", "--dry-run", f"--out={tmp_path / 'out'}")
    assert not hub.requests
    assert json.loads(capsys.readouterr().out)["files"] == ["README.md", WEIGHTS, "manifest.json"]
    card = (tmp_path / "out" / "README.md").read_bytes()
    assert header(card) == {
        "license": "mit",
        "library_name": "adapters_jax",
        "pipeline_tag": "text-classification",
        "tags": ["adapters_jax", "adapter", "lora", "bert", "rte"],
    }
    for text in (
        "| method | lora |",
        "| rank | 2 |",
        "| labels | ja, nein \\| ☃, weiß nicht |",
        "| data | glue/rte |",
        "| seed | 3 |",
        "| accuracy | 0.8125 |",
        "python -m train.glue --task=rte '--note=it'\"'\"'s'",
        'aj.load_adapter("hf:me/films", backbone)',
        "safetensors ",
    ):
        assert text in card.decode()


def test_pushing_is_refused_in_one_line(hub: Hub, saved: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "not pushed, not open to you; log in" in refused(capsys, push, saved)
    hub.http.shutdown()
    hub.http.server_close()
    assert "hf:me/films: not pushed (" in refused(capsys, push, saved)
    assert "expected hf:user/name" in refused(capsys, cli.main, ["convert", f"--from={saved}", "--push-to-hub=films"])
    assert "--out" in refused(capsys, push, saved, "--dry-run")


@ignore_http
@pytest.mark.parametrize("kind", ["peft", "adapterhub", "native", "hf"])
def test_what_is_pushed_takes_the_place_of_all_that_was_there(
    kind, hub: Hub, saved, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    stack = drawn(tiny, aj.Stack((aj.Pfeiffer(bottleneck=4), aj.Pfeiffer(bottleneck=4))))
    save_adapterhub(tmp_path / "stack", *stack, tiny)
    old = dict.fromkeys((*FILES, *pickles.FILES, "config.json", "model.safetensors", "tokenizer.json"), b"old")
    below = [p.relative_to(tmp_path / "stack").as_posix() for p in (tmp_path / "stack").rglob("*") if p.is_file()]
    kept = {".gitattributes": b"x", "notes.txt": b"x", "runs/1/adapter.safetensors": b"x", "data/rows.json": b"x"}
    hub.add(REPO, old | dict.fromkeys(below, b"old") | kept)
    aj.save_adapter(tmp_path / "new", *drawn(tiny, aj.LoRA(rank=3)), tiny)
    push(tmp_path / "new", f"--to={kind}")
    pushed = hub.head(REPO)
    assert {name: pushed[name] for name in kept} == kept and b"old" not in pushed.values()
    deleted = json.loads(capsys.readouterr().out)["deleted"]
    assert {*deleted, *pushed} >= {*old, *below} and not {*deleted} & {*pushed}
    labels = {"labels": LABELS} if kind == "peft" else {}
    if kind != "hf":
        model, params = aj.load_adapter(SOURCE, tiny, **labels)
        assert model.method.rank == 3
        testing.assert_same(params, aj.load_adapter(tmp_path / "new", tiny)[1])


def test_what_is_stale():
    there = [
        "a/adapter_config.json",
        "adapter_config.json",
        "notes",
        "a/config.json",
        "vocab.txt",
        "pytorch_adapter.bin",
    ]
    assert stale(there, ["adapter_config.json"]) == ["pytorch_adapter.bin", "vocab.txt"]
    assert stale([*there, "adapter_setup.json"], []) == [
        "adapter_config.json",
        "adapter_setup.json",
        "pytorch_adapter.bin",
        "vocab.txt",
        "a/adapter_config.json",
    ]


@ignore_http
def test_a_public_repository_does_not_become_private(hub: Hub, saved: Path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    commit = hub.add(REPO, {"notes.txt": b"x"})
    told = refused(capsys, push, saved, "--private")
    assert "not pushed: --private: expected a new or a private repository, found a public one" in told
    assert hub.branches[REPO] == {"main": commit}
    hub.private.add(REPO)
    push(saved, "--private")
    assert WEIGHTS in hub.head(REPO)


def card_of(folder: Path, out: Path, *flags: str) -> str:
    push(folder, "--dry-run", f"--out={out}", *flags)
    return (out / "README.md").read_text()


def test_the_card_of_each_form_tells_how_to_use_it(hub: Hub, saved: Path, tiny, tmp_path: Path):
    told = card_of(saved, tmp_path / "hf", "--to=hf")
    assert 'transformers.BertForSequenceClassification.from_pretrained("me/films")' in told
    told = card_of(saved, tmp_path / "peft", "--to=peft")
    (line,) = re.findall(r"aj\.load_adapter\(\"hf:me/films\", backbone, labels=(.*)\)", told)
    assert ast.literal_eval(line) == LABELS
    assert "labels=" not in card_of(saved, tmp_path / "theirs", "--to=adapterhub")
    ticks = drawn(tiny, aj.LoRA(rank=2), aj.Classification(labels=("a", "```b")))
    aj.save_adapter(tmp_path / "ticks", *ticks, tiny)
    told = card_of(tmp_path / "ticks", tmp_path / "ticked", "--to=peft")
    block = told.split("```python\n")[1].split("```")[0]
    assert ast.literal_eval(re.findall(r"labels=(\(.*\))\)", block)[0]) == ("a", "```b")
    aj.save_adapter(tmp_path / "bare", *drawn(tiny, aj.LoRA(rank=2), aj.NoHead()), tiny)
    assert "transformers.BertModel.from" in card_of(tmp_path / "bare", tmp_path / "plain", "--to=hf")


def test_the_licence_is_one_of_the_hub_s(saved: Path, tmp_path: Path, capsys):
    flags = ("--dry-run", f"--out={tmp_path / 'out'}")
    told = refused(capsys, push, saved, *flags, "--license=apache2")
    assert "--license: unknown licence 'apache2': known are" in told and "did you mean 'apache-2.0'?" in told
    assert header(card_of(saved, tmp_path / "other", "--license=other").encode())["license"] == "other"


STRANGE = {
    "a text for a score": ({"scores": {"a": "x"}}, "scores.a: expected float, got 'x'"),
    "a list of scores": ({"scores": [1.0]}, "expected a table 'scores', got [1.0]"),
    "a score that is no float": ({"scores": {"a": 10**400}}, "scores.a: expected float, got 1000"),
    "a summary of texts": ({"summary": {"trained": "many"}}, "summary.trained: expected float, got 'many'"),
    "a list of extras": ({"extra": ["command"]}, "expected a table 'extra', got ['command']"),
    "a list of versions": ({"versions": ["jax"]}, "expected a table 'versions', got ['jax']"),
    "a method without a name": ({"method": {"rank": 2}}, "method.name: expected str, got None"),
    "a head whose name is none": ({"head": {"name": ["a"]}}, "head.name: expected str, got ['a']"),
    "a task in a list": ({"task": ["rte"]}, "task: expected str | None, got ['rte']"),
    "a backbone's name": ({"backbone": {"name": 3, "fingerprint": "a"}}, "backbone.name: expected str, got 3"),
}


@pytest.mark.parametrize("change, message", STRANGE.values(), ids=STRANGE)
def test_a_stranger_s_manifest_is_no_traceback(change: dict, message: str, saved: Path, tiny, tmp_path: Path, capsys):
    folder = stranger(saved, tmp_path / "strange", change)
    told = refused(capsys, push, folder, "--dry-run", f"--out={tmp_path / 'out'}")
    assert f"manifest.json: {message}" in told
    with pytest.raises(AdapterError):
        aj.load_adapter(folder, tiny)


def test_a_stranger_s_texts_stay_where_they_belong(saved: Path, tmp_path: Path):
    own = json.loads((saved / "manifest.json").read_text())["backbone"]
    name = "no\n# A title```" + "x" * 300
    change = {"task": "a\n# title", "versions": {"jax": "1\n# title"}, "backbone": own | {"name": name}}
    told = card_of(stranger(saved, tmp_path / "strange", change), tmp_path / "out")
    (title,) = (line for line in told.splitlines() if line.startswith("# "))
    assert title.startswith("# lora on no # A title'''xxx") and title.endswith("xxx for a # title")
    assert told.count("```") == 4


def stranger(saved: Path, folder: Path, change: dict) -> Path:
    """An artefact whose manifest is signed, and says something else."""
    shutil.copytree(saved, folder)
    content = json.loads((folder / manifest.NAME).read_text())
    (folder / manifest.NAME).unlink()
    manifest.write(folder, {key: content[key] for key in content if key not in ("files", "sha256")} | change)
    return folder
