"""The guide's table of conversions is the one that the rules give; `python tests/interop/test_table.py` writes it."""

import ast
import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import adapters_jax as aj
from adapters_jax import interop
from adapters_jax.bert import weights
from adapters_jax.errors import NotFoldable
from adapters_jax.interop import adapterhub, hf, peft, rules
from adapters_jax.interop.adapterhub import names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exchange.md"
START = "<!-- table: written by `python tests/interop/test_table.py` from the rules that decide -->\n"
END = "<!-- end of the table -->"


LIBRARIES = {"peft": peft.KINDS, "AdapterHub": adapterhub.KINDS, "plain BERT (`--to=hf`)": hf.KINDS}
KINDS = [kind for kinds in LIBRARIES.values() for kind in kinds]


def generated() -> str:
    return rules.table(LIBRARIES)


def parts() -> tuple[str, str, str]:
    """(before the table, the table, after it)."""
    before, rest = PAGE.read_text().split(START)
    table, after = rest.split(END)
    return before, table, after


def test_the_page_shows_what_the_rules_decide():
    assert parts()[1].strip() == generated().strip(), (
        "docs/exchange.md shows another table than the rules give; write it anew: python tests/interop/test_table.py"
    )


def rows() -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in generated().splitlines()[2:]]


def test_the_table_has_every_kind_and_every_reason():
    table = generated()
    assert len({len(row) for row in rows()}) == 1
    for row, kind in zip(rows(), KINDS, strict=False):
        assert row[1] == kind.title and row[2] == (", ".join(f"`{cls.name}`" for cls in kind.methods) or "-")
        assert (row[4] == "yes") == (not kind.note and bool(kind.read or kind.write))
        for rule in (*kind.not_read, *kind.not_written):
            assert f"{rule.when}: {rule.why}" in table


def test_methods_that_are_in_no_library_are_native_only():
    native = {row[2].strip("`") for row in rows()[len(KINDS) :]}
    written = {cls.name for kind in (*peft.KINDS, *adapterhub.KINDS) if kind.write for cls in kind.methods}
    assert native == aj.METHODS.keys() - written
    assert {"bitfit", "top_n", "k_adapter"} <= native
    assert all(row[0] == "native only" for row in rows()[len(KINDS) :])


def refusals(found: Any) -> Iterator[rules.Refusal]:
    """Every rule in a value, however it is nested."""
    if isinstance(found, rules.Refusal):
        yield found
    elif isinstance(found, rules.Kind):
        yield from (*found.not_read, *found.not_written)
    elif isinstance(found, tuple | list | frozenset | set | dict):
        for each in found.values() if isinstance(found, dict) else found:
            yield from refusals(each)


def modules() -> list[ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(interop.__path__, f"{interop.__name__}.")]
    return [importlib.import_module(name) for name in names]


def test_every_rule_is_in_the_table():
    shown = {id(rule) for rule in refusals(KINDS)}
    for module in modules():
        for name, value in vars(module).items():
            for rule in refusals(value):
                assert id(rule) in shown, f"{module.__name__}.{name}: {rule.when}: in no Kind's not_read or not_written"


def test_no_rule_is_made_where_the_table_cannot_see_it():
    """Within functions, but for those that make the table's own kinds when a module is imported."""
    for module in modules():
        for outer in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(outer, ast.FunctionDef) and outer.name != "_kinds":
                made = [getattr(call.func, "id", "") for call in ast.walk(outer) if isinstance(call, ast.Call)]
                assert "Refusal" not in made, f"{module.__name__}.{outer.name}"


@pytest.mark.parametrize("name", sorted(aj.METHODS.keys() - {"compose", "stack", "fusion", "adapter_drop", "frozen"}))
def test_what_the_table_folds_is_what_fold_takes(name: str):
    model = aj.Model(aj.BertConfig.tiny(hidden_size=64, intermediate_size=64), aj.METHODS[name](), aj.NoHead())
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), model.abstract(weights.abstract(model.config)))
    writes = [kind.write is not None for kind in hf.KINDS if type(model.method) in kind.methods]
    assert len(writes) == 1
    if writes[0]:
        model.fold(params)
    else:
        with pytest.raises(NotFoldable):
            model.fold(params)


def test_names_of_torchs_modules(golden: Path):
    assert set(json.loads((golden / "adapterhub" / "reserved.json").read_text())) <= names.RESERVED


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + START + generated().strip() + "\n" + END + after)
    print(f"{PAGE}: written")
