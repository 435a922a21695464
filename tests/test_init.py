"""The package's front: every exported name exists, and importing it costs nothing."""

import subprocess
import sys

import adapters_jax as aj


def test_every_name_exists():
    for name in aj.__all__:
        assert getattr(aj, name).__name__.split(".")[-1] == name if hasattr(getattr(aj, name), "__name__") else True


def test_import_pulls_in_nothing_heavy():
    code = "import sys, adapters_jax; print([m for m in ('jax', 'flax', 'transformers', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_unknown_names_raise():
    assert not hasattr(aj, "pytorch")
