"""Flags and YAML to a resolved configuration."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adapters_jax.errors import ConfigError
from adapters_jax.methods import METHODS
from train import flags


def resolved(*argv: str) -> flags.Flags:
    return flags.resolve(flags.parse(argv)).flags


def write(folder: Path, text: str, name: str = "x.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_flags_take_both_forms_and_either_dash():
    a = flags.parse(["--task=mnli", "--method=houlsby", "--method.bottleneck=8", "--train-rows=10", "--lr=1e-3"])
    b = flags.parse(
        ["--task", "mnli", "--method", "houlsby", "--method.bottleneck", "8", "--train_rows", "10", "--lr", "1e-3"]
    )
    assert a == b
    assert a.method.bottleneck == 8
    assert a.flags.lr == 1e-3


def test_houlsby_is_the_default_method():
    assert isinstance(flags.parse(["--task=rte"]).method, METHODS["houlsby"])


@pytest.mark.parametrize("given", [["--overwrite"], ["--overwrite=true"], ["--overwrite", "True"]])
def test_a_boolean_needs_no_value(given: list[str]):
    assert flags.parse(["--task=rte", *given, "--seed=1"]).flags.overwrite is True


def test_a_boolean_of_the_method_can_be_switched_off():
    assert flags.parse(["--method.layer-norms=false"]).method.layer_norms is False


def test_the_recipe_fills_what_is_not_given():
    recipe = METHODS["houlsby"]().recipe
    own = resolved("--task=cola")
    assert (own.lr, own.epochs, own.optimizer) == (recipe.lr, recipe.epochs, recipe.optimizer)
    assert own.out_dir == "runs/cola-houlsby-0"


def test_the_table_of_task_and_method_goes_before_the_recipe():
    assert resolved("--task=rte").epochs == 20
    assert resolved("--task=rte", "--method=full").epochs == METHODS["full"]().recipe.epochs


def test_a_flag_goes_before_yaml_and_yaml_before_the_table(tmp_path: Path):
    first = write(tmp_path, "task: rte\nepochs: 7\nlr: 1e-3\n", "a.yaml")
    second = write(tmp_path, "lr: 2e-3\nmethod: {name: houlsby, bottleneck: 8}\n", "b.yaml")
    config = flags.resolve(flags.parse([f"--config={first}", "--seed=3", "--config", second, "--method.bottleneck=4"]))
    assert (config.flags.epochs, config.flags.lr, config.flags.seed) == (7, 2e-3, 3)
    assert config.method.bottleneck == 4
    assert resolved(f"--config={second}", f"--config={first}").lr == 1e-3


def test_steps_displace_epochs_of_a_weaker_layer(tmp_path: Path):
    path = write(tmp_path, "task: rte\nepochs: 7\n")
    assert (resolved(f"--config={path}", "--steps=5").steps, resolved(f"--config={path}", "--steps=5").epochs) == (
        5,
        None,
    )
    path = write(tmp_path, "task: rte\nsteps: 7\n")
    assert (resolved(f"--config={path}", "--epochs=2").steps, resolved(f"--config={path}", "--epochs=2").epochs) == (
        None,
        2,
    )


def test_the_method_may_be_named_beside_its_fields_or_alone(tmp_path: Path):
    assert flags.parse([f"--config={write(tmp_path, 'method: full')}"]).flags.method == "full"
    assert flags.parse([f"--config={write(tmp_path, 'method.bottleneck: 3')}"]).method.bottleneck == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_resolved_configuration_gives_itself_again(tmp_path: Path, method: str):
    several, one = "--method.parts=lora:slots=query+key,prefix:length=3", "--method.of=lora:slots=query+key:rank=3"
    parts = {
        "compose": [several],
        "stack": [several],
        "fusion": ["--method.parts=pfeiffer,pfeiffer:bottleneck=8", "--method.names=a,b"],
        "adapter_drop": [one],
        "frozen": [one],
    }.get(method, [])
    given = ["--task=rte", f"--method={method}", "--steps=3", "--lr=1e-5", "--overwrite", *parts]
    config = flags.resolve(flags.parse(given))
    path = write(tmp_path, yaml.safe_dump(config.to_dict(), sort_keys=False))
    again = flags.resolve(flags.parse([f"--config={path}"]))
    assert again == dataclasses.replace(config, flags=dataclasses.replace(config.flags, overwrite=False))


def test_a_field_of_a_stored_configuration_can_be_changed(tmp_path: Path):
    """What a preset filled in follows the new preset; one size takes the place of another."""
    again = lambda config, *given: flags.parse([f"--config={config}", *given]).method
    path = write(tmp_path, yaml.safe_dump(flags.resolve(flags.parse(["--task=rte"])).to_dict()))
    assert again(path, "--method.preset=adapterhub") == METHODS["houlsby"](preset="adapterhub")
    path = write(tmp_path, yaml.safe_dump(flags.resolve(flags.parse(["--task=rte", "--method=pfeiffer"])).to_dict()))
    assert again(path, "--method.bottleneck=32") == METHODS["pfeiffer"](bottleneck=32)


def test_parts_of_a_composition_keep_their_texts(tmp_path: Path):
    given = [
        "--task=rte",
        "--method=compose",
        "--method.parts=prompt:init=text:text=good%2C or a+b%3A,parallel:scale=2",
    ]
    config = flags.resolve(flags.parse(given))
    first, second = config.method.parts
    assert (first.text, second.scale) == ("good, or a+b:", 2.0)
    path = write(tmp_path, yaml.safe_dump(config.to_dict()))
    assert flags.parse([f"--config={path}"]).method == config.method


def test_toy_needs_no_task():
    assert resolved("--data=toy").task == "toy"


BAD = {
    "unknown task": (["--task=mnlli"], ["mnlli", "mnli"]),
    "no task": ([], ["--task", "mnli", "--data=toy"]),
    "toy with a task": (["--data=toy", "--task=rte"], ["toy", "rte"]),
    "unknown method": (["--task=rte", "--method=houlsbi"], ["houlsbi", "'houlsby'", "full"]),
    "misspelled flag": (["--task=rte", "--bach-size=3"], ["--bach-size", "Perhaps you meant --batch-size?"]),
    "misspelled field": (["--task=rte", "--method.bottlenek=3"], ["Perhaps you meant --method.bottleneck?"]),
    "field of another method": (["--task=rte", "--method=full", "--method.bottleneck=3"], ["--method.bottleneck"]),
    "no number": (["--task=rte", "--lr=fast"], ["--lr", "a number", "'fast'"]),
    "no whole number": (["--task=rte", "--batch-size=1.5"], ["--batch-size", "a whole number", "'1.5'"]),
    "bad literal": (["--task=rte", "--data=web"], ["--data", "auto, tfds, files, toy", "'web'"]),
    "no boolean": (["--task=rte", "--overwrite=maybe"], ["--overwrite", "true or false", "'maybe'"]),
    "no value": (["--task=rte", "--lr"], ["--lr", "a number", "nothing"]),
    "lone word": (["--task=rte", "mnli"], ["'mnli'"]),
    "batch size 0": (["--task=rte", "--batch-size=0"], ["batch_size", "at least 1", "0"]),
    "bottleneck 0": (["--task=rte", "--method.bottleneck=0"], ["bottleneck", "at least 1", "0"]),
    "train rows 0": (["--task=rte", "--train-rows=0"], ["train_rows", "at least 1"]),
    "negative rate": (["--task=rte", "--lr=-1"], ["lr", "-1"]),
    "warm-up above 1": (["--task=rte", "--warmup=2"], ["warmup", "2"]),
    "no optimizer": (["--task=rte", "--optimizer=adamv"], ["adamv", "adamw"]),
    "steps and epochs": (["--task=rte", "--steps=1", "--epochs=1"], ["--steps", "--epochs"]),
    "no such file": (["--config=none.yaml"], ["none.yaml", "No such file"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_flags_say_what_is_expected(what: str):
    argv, words = BAD[what]
    with pytest.raises(ConfigError) as caught:
        resolved(*argv)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


BAD_YAML = {
    "misspelled key": ("task: rte\nbach_size: 3\n", ["bach-size", "Perhaps you meant batch-size?"]),
    "misspelled field": ("method: {bottlenek: 3}\n", ["Perhaps you meant method.bottleneck?"]),
    "wrong type": ("batch_size: many\n", ["batch-size", "a whole number", "'many'"]),
    "list": ("lr: [1, 2]\n", ["lr", "a number", "'1,2'"]),
    "bad literal": ("keep: first\n", ["keep", "best, last", "'first'"]),
    "no mapping": ("- task\n", ["mapping", "list"]),
    "no YAML": ("task: [\n", ["not YAML"]),
    "another file": ("config: other.yaml\n", ["config"]),
}


@pytest.mark.parametrize("what", BAD_YAML)
def test_bad_yaml_is_refused_like_flags(tmp_path: Path, what: str):
    text, words = BAD_YAML[what]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        flags.parse([f"--config={path}"])
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in [path, *words] if word not in message] == [], message


def test_help_is_quick_and_lists_the_flags_of_a_named_method(capsys: pytest.CaptureFixture):
    code = "import sys; from train.glue import main\ntry: main(['--help'])\nexcept SystemExit as e: assert e.code == 0"
    told = subprocess.run(
        [sys.executable, "-c", code + "\nassert 'jax' not in sys.modules"],
        cwd=Path(flags.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "--train-rows" in told.stdout
    with pytest.raises(SystemExit) as end:
        flags.parse(["--method=houlsby", "--help"])
    assert end.value.code == 0
    assert "--method.bottleneck" in capsys.readouterr().out


CONFIGS = sorted((Path(flags.__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resolves_and_says_where_it_comes_from(path: Path):
    config = flags.resolve(flags.parse([f"--config={path}"]))
    assert config.flags.method in METHODS
    comment = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert "python -m train.glue" in comment
    assert "Score" in comment
    assert "Source" in comment
    commands = [line.removeprefix("#").split()[3:] for line in comment.splitlines() if "-m train.glue" in line]
    for command in commands:
        flags.resolve(flags.parse([arg.replace("configs/", f"{path.parent}/") for arg in command]))
