"""Imports point down only, and what touches the outside world lives in few known places."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lower layers first; members of one layer may import each other. A module is placed by its longest matching prefix.
LAYERS = (
    (
        "adapters_jax.errors",
        "adapters_jax.fields",
        "adapters_jax.hub",
        "adapters_jax.manifest",
        "adapters_jax.tensors",
        "adapters_jax.trees",
        "adapters_jax.types",
    ),
    ("adapters_jax.slots", "adapters_jax.summary"),
    ("adapters_jax.bert",),
    ("adapters_jax.methods",),
    ("adapters_jax.model",),
    (
        "adapters_jax.agreement",
        "adapters_jax.artefact",
        "adapters_jax.card",
        "adapters_jax.checkpoint",
        "adapters_jax.describe",
        "adapters_jax.optim",
        "adapters_jax.sharding",
        "adapters_jax.stored",
    ),
    (
        "adapters_jax.analysis",
        "adapters_jax.data",
        "adapters_jax.interop",
        "adapters_jax.metrics",
        "adapters_jax.serving",
        "adapters_jax.testing",
        "adapters_jax.training",
    ),
    ("adapters_jax", "adapters_jax.cli", "adapters_jax.flags", "train"),
)


def modules() -> dict[str, Path]:
    """Dotted name of every module of the package and of train/, with its file."""
    found = {}
    for top in ("adapters_jax", "train"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer(module: str) -> int:
    """Number of the layer that the longest prefix of the module's name is listed in."""
    placed = {prefix: number for number, prefixes in enumerate(LAYERS) for prefix in prefixes}
    names = module.split(".")
    for end in range(len(names), 0, -1):
        prefix = ".".join(names[:end])
        if prefix in placed and (prefix != "adapters_jax" or end == len(names)):
            return placed[prefix]
    raise AssertionError(f"{module} has no layer: place it in LAYERS")


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that a module imports anywhere, in functions too; `from a import b` gives a.b."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@functools.cache
def imported(module: str) -> set[str]:
    path = MODULES[module]
    return set(imports(path.read_text(), module, path.name == "__init__.py"))


def own(name: str) -> str | None:
    """The module of ours that an imported name is, or is in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def uses(module: str, dotted: str) -> bool:
    """Whether a module mentions an attribute such as `jax.jit`, or imports it by name."""
    owner, attribute = dotted.rsplit(".", 1)
    tree = parsed(module)
    mentioned = any(
        isinstance(node, ast.Attribute) and node.attr == attribute and ast.unparse(node.value) == owner
        for node in ast.walk(tree)
    )
    return mentioned or dotted in imported(module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str):
    upward = {}
    for name in imported(module):
        target = own(name)
        if target is not None and target != module and layer(target) > layer(module):
            upward[name] = target
    assert not upward, f"{module} imports from above: {upward}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("adapters_jax.bert")])
def test_the_backbone_names_no_method(module: str):
    methods = {path.stem.lower() for path in (ROOT / "adapters_jax" / "methods").glob("*.py")} - {"__init__", "base"}
    names = {node.id.lower() for node in ast.walk(parsed(module)) if isinstance(node, ast.Name)}
    assert not names & (methods - {"full", "head"})
    assert not any(name.startswith("adapters_jax.methods") for name in imported(module))


@pytest.mark.parametrize("what", ["os.environ", "os.getenv", "sys.argv"])
def test_only_entry_points_read_flags_and_environment(what: str):
    readers = {module for module in MODULES if uses(module, what)}
    assert all(module == "adapters_jax.cli" or module.split(".")[0] == "train" for module in readers), readers


@pytest.mark.parametrize("what", ["jax.jit", "jax.pmap", "flax.linen.jit"])
def test_only_training_and_serving_compile(what: str):
    users = {module for module in MODULES if uses(module, what)}
    assert all(module.startswith(("adapters_jax.training", "adapters_jax.serving")) for module in users), users


@pytest.mark.parametrize("module", MODULES)
def test_no_torch_and_no_tensorflow(module: str):
    roots = {name.split(".")[0] for name in imported(module)}
    reads_pickles = {"torch"} if module == "adapters_jax.interop.pickles" else set()
    assert not roots & ({"torch", "tensorflow", "adapters", "peft"} - reads_pickles)


HEAVY = ("torch", "transformers", "sklearn", "scipy", "tensorflow_datasets", "tensorboardX", "huggingface_hub")


@pytest.mark.parametrize("module", MODULES)
def test_slow_packages_are_imported_where_they_are_used(module: str):
    for node in parsed(module).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {name.split(".")[0] for name in names} & set(HEAVY), f"{module} line {node.lineno}"


def test_relative_imports_are_resolved():
    source = "from . import a\nfrom ..b import c\nimport d.e\n"
    assert set(imports(source, "top.package.module", False)) == {"top.package.a", "top.b.c", "d.e"}
    assert set(imports("from . import a", "top.package", True)) == {"top.package.a"}
