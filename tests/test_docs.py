"""The guides say what the code does: fields and defaults, recipes, parameter counts, commands."""

import dataclasses
import importlib
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import adapters_jax as aj
from adapters_jax.bert import weights
from train import flags
from train.grid import plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "methods"
BERTS = (aj.BertConfig.base(), aj.BertConfig.large())
HEAD = aj.Classification(num_labels=2)
OF_OTHERS = ("adapter_drop", "compose", "frozen", "fusion", "stack")
"""Methods that cannot be without others."""
COUNTED = re.compile(r"^\| (as it is|`--method\..*?`) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def method(name: str, given: str = "as it is") -> aj.Method:
    own = [] if given == "as it is" else given.strip("`").split()
    return flags.parse([f"--method={name}", *own]).method


def counts(method: aj.Method) -> tuple[str, ...]:
    """Trained without the head, and their share, on BERT-base and -large."""
    cells = []
    for config in BERTS:
        summary = aj.Model(config, method, HEAD).summary(weights.abstract(config))
        trained = summary.trained - summary.head
        cells += [f"{trained:,}", f"{trained / summary.backbone:.3%}"]
    return tuple(cells)


def shown(value: Any) -> str:
    """A default as the pages write it."""
    if value in (None, (), "", dataclasses.MISSING):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def test_every_method_has_a_page_and_a_line_in_the_index():
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == set(aj.METHODS)
    for name, cls in aj.METHODS.items():
        assert f"| [`{name}`]({name}.md) | `aj.{cls.__name__}` |" in page("README")
        assert getattr(aj, cls.__name__) is cls


@pytest.mark.parametrize("name", aj.METHODS)
def test_the_fields_of_a_page_are_those_of_the_method(name: str):
    cls = aj.METHODS[name]
    table = re.findall(r"^\| `([a-z_0-9]+)` \| (\S+) \|", page(name), re.MULTILINE)
    default = lambda field: field.default if name in OF_OTHERS else getattr(cls(), field.name)
    assert table == [(field.name, shown(default(field))) for field in dataclasses.fields(cls)]


@pytest.mark.parametrize("name", aj.METHODS)
def test_the_recipe_of_a_page_is_the_method_s(name: str):
    text = " ".join(page(name).split())
    rows = COUNTED.findall(page(name))
    r = method(name, rows[0][0]).recipe
    assert (
        f"Recipe: {r.optimizer}, rate {r.lr:g}, {r.epochs:g} epochs, batch {r.batch_size}, warm-up {r.warmup:g}, "
        f"{r.schedule}, decay {r.weight_decay:g}, clip {r.clip_norm:g}. From: {r.source}." in text
    )


@pytest.mark.parametrize("name", aj.METHODS)
def test_the_counts_of_a_page_are_those_of_the_model(name: str):
    rows = COUNTED.findall(page(name))
    assert rows
    for given, *cells in rows:
        assert tuple(cells) == counts(method(name, given)), given
    index = re.search(rf"^\| \[`{name}`\].*\| (\S+) \| (\S+) \|$", page("README"), re.MULTILINE)
    first = rows[0][1:3] if rows[0][0] == "as it is" else ("-", "-")
    assert index is not None
    assert index.groups() == first


def test_the_sizes_of_a_comparison_are_those_of_the_methods():
    table = dict(
        re.findall(r"^\| (`\w+`|none: they run once) \| (.+) \|$", (ROOT / "docs/compare.md").read_text(), re.M)
    )
    for name, cls in aj.METHODS.items():
        key = f"`{cls.size}`" if cls.size else "none: they run once"
        assert name in table[key].split(", ")
    assert sum(len(names.split(", ")) for names in table.values()) == len(aj.METHODS)


COMMANDS = [
    (path.relative_to(ROOT).as_posix(), line)
    for path in sorted((ROOT / "docs").rglob("*.md"))
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if "-m train." in line
]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_the_commands_of_the_guides_are_understood(path: str, command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    if words[0] == "mpirun":  # ... sh -c 'the command, with the number of each process'
        for name, value in (("SIZE", "2"), ("RANK", "0")):
            monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
        words = shlex.split(os.path.expandvars(words[-1]))
    _, _, module, *argv = words
    if module == "train.compare":
        assert plan(argv, "").jobs
    else:
        own = getattr(importlib.import_module(module), "Flags", flags.Flags)
        config = flags.resolve(flags.parse(argv, cls=own))
        if path.startswith("docs/methods/") and Path(path).stem not in OF_OTHERS:
            assert config.flags.method == Path(path).stem


def test_links_between_the_guides_lead_somewhere():
    for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
