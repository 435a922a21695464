"""AdapterHub's folders of every kind changed at random: an error of one line or a whole model, never anything else.

Some hundred changes in `make test`, some thousands in `make test-slow`; which ones is decided by the seed alone. How
files are changed, and what is asked of a folder that loads: tests/interop/test_fuzz.py.
"""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert.heads import Head, TokenClassification
from adapters_jax.interop import save_adapterhub
from tests.interop.drawn import LABELS, drawn
from tests.interop.test_fuzz import changed, loads

TEXTS = aj.Classification(labels=LABELS, own_pooler=True)
PROMPT = aj.Prompt(length=2, insertion="encoder", read="first")
TWO = (aj.Pfeiffer(bottleneck=2), aj.Pfeiffer(bottleneck=3))
CASES: dict[str, tuple[aj.Method, Head]] = {
    "fusion": (aj.Fusion(TWO, ("a", "b")), TEXTS),
    "stack": (aj.Stack((aj.Pfeiffer(bottleneck=2, invertible=True), TWO[1])), TEXTS),
    "union": (aj.compose(aj.IA3(), PROMPT, aj.Parallel(bottleneck=2)), TEXTS),
    "unipelt": (aj.UniPELT(2, 3, 4.0, 2, gate_padding=True), aj.NoHead()),
    "mam": (aj.MAM(length=2, prefix_bottleneck=3, bottleneck=2), aj.Regression(mean=2.0)),
    "prefix": (aj.Prefix(length=2, bottleneck=3), aj.NoHead()),
    "prompt": (PROMPT, aj.Classification(labels=LABELS)),
    "ia3": (aj.IA3(layers=(0,)), TokenClassification(labels=LABELS)),
    "scaled": (aj.ScaledParallel(sizes=(2,), inner_norm=True), aj.NoHead()),
}
"""Name -> what is saved, then changed."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("small"), aj.BertConfig.tiny(num_hidden_layers=1))


def written(folder: Path, case: str, backbone: aj.Backbone) -> dict[str, bytes]:
    """Path within the folder -> content."""
    save_adapterhub(folder, *drawn(backbone, *CASES[case]), backbone, name="task")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fuzz(case: str, rounds: int, seed: int, backbone: aj.Backbone, folder: Path) -> Counter[bool]:
    """How many of the changed folders load, and how many do not."""
    files = written(folder / "whole", case, backbone)
    assert loads(folder / "whole", backbone)
    rng, outcomes = random.Random(f"{case}/{seed}"), Counter[bool]()
    for turn in range(rounds):
        shutil.rmtree(folder / "changed", ignore_errors=True)
        for name, data in changed(rng, files).items():
            (folder / "changed" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "changed" / name).write_bytes(data)
        try:
            outcomes[loads(folder / "changed", backbone)] += 1
        except BaseException as error:
            error.add_note(f"{case}, turn {turn}")
            raise
    return outcomes


@pytest.mark.parametrize("case", CASES)
def test_changed_folders(case: str, small: aj.Backbone, tmp_path: Path):
    assert fuzz(case, 20, 0, small, tmp_path)[False] > 5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_many_changed_folders(case: str, small: aj.Backbone, tmp_path: Path):
    outcomes = fuzz(case, 300, 1, small, tmp_path)
    assert outcomes[False] > 100 and outcomes[True] > 0
