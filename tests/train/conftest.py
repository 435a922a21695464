"""A tiny backbone and tiny GLUE folders, as files."""

from pathlib import Path

import pytest

from adapters_jax import testing

WORDS = ("cat", "dog", "man", "woman", "good", "bad")


def rte_rows(count: int) -> list[str]:
    rows = ["index\tsentence1\tsentence2\tlabel"]
    for n in range(count):
        first, second = WORDS[n % 6], WORDS[(n // 2) % 6]
        label = "entailment" if first == second else "not_entailment"
        rows.append(f"{n}\tthe {first} is {WORDS[n % 4]} and not {second}\tthe {second} is on the {first}\t{label}")
    return rows


def write_rte(folder: Path) -> Path:
    """A GLUE folder with RTE: 24 rows to train on, 10 for dev, 6 for test."""
    rte = folder / "RTE"
    rte.mkdir(parents=True)
    (rte / "train.tsv").write_text("\n".join(rte_rows(24)) + "\n")
    (rte / "dev.tsv").write_text("\n".join(rte_rows(10)) + "\n")
    (rte / "test.tsv").write_text("\n".join(row.rsplit("\t", 1)[0] for row in rte_rows(6)) + "\n")
    return folder


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers with its tokenizer; 64 positions."""
    return testing.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rte(tmp_path_factory.mktemp("glue"))
