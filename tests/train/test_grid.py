"""The flags of a comparison to its runs."""

from pathlib import Path

import pytest

from adapters_jax.errors import ConfigError
from adapters_jax.methods import METHODS
from train import flags
from train.grid import plan


def jobs(*argv: str) -> dict[str, flags.Config]:
    return {job.run.name: job.config for job in plan(list(argv), "").jobs}


def test_sizes_rates_and_fields_of_single_methods():
    asked = ["--sizes=4,houlsby:8,houlsby:16", "--lrs=head:1e-2", "--lr=1e-3", "--houlsby.init-std=0.5"]
    found = jobs("--data=toy", "--methods=houlsby,pfeiffer,head", *asked)
    assert list(found) == ["houlsby-8-0", "houlsby-16-0", "pfeiffer-4-0", "head-0"]
    assert [config.flags.lr for config in found.values()] == [1e-3, 1e-3, 1e-3, 1e-2]
    assert (found["houlsby-8-0"].method.bottleneck, found["houlsby-8-0"].method.init_std) == (8, 0.5)
    assert found["pfeiffer-4-0"].method.bottleneck == 4


def test_heads_of_single_methods_may_have_a_rate_of_their_own():
    found = jobs("--data=toy", "--methods=prompt,head", "--head-lrs=prompt:1e-2", "--lrs=prompt:1e-4", "--lr=1e-3")
    assert [(config.flags.lr, config.flags.head_lr) for config in found.values()] == [(1e-4, 1e-2), (1e-3, None)]
    found = jobs("--data=toy", "--methods=prompt,head", "--head-lrs=prompt:1e-2", "--head-lr=1e-3")
    assert [config.flags.head_lr for config in found.values()] == [1e-2, 1e-3]


def test_a_name_with_an_underscore():
    found = jobs("--data=toy", "--methods=top_n", "--sizes=top_n:1,top_n:2", "--lrs=top_n:1e-5", "--top_n.pooler=false")
    assert [config.method.top for config in found.values()] == [1, 2]
    assert not any(config.method.pooler for config in found.values())


def test_without_sizes_a_method_runs_once_as_it_is():
    found = jobs("--data=toy", "--methods=houlsby,head")
    assert list(found) == ["houlsby-0", "head-0"]
    assert found["houlsby-0"].method == METHODS["houlsby"]()
    assert found["houlsby-0"].flags.lr == 5e-4


def test_what_is_given_twice_runs_once():
    assert list(jobs("--data=toy", "--methods=houlsby,houlsby", "--sizes=8,8", "--seeds=1,1")) == ["houlsby-8-1"]


def test_a_comparison_may_be_a_file(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "data: toy\nmethods: [houlsby, head]\nsizes: [8, 'houlsby:4']\nsteps: 3\nhoulsby: {preset: paper}\n"
    )
    found = jobs(f"--config={path}", "--seeds=7")
    assert list(found) == ["houlsby-4-7", "head-7"]
    assert found["houlsby-4-7"].method.preset == "paper"
    assert (found["head-7"].flags.steps, found["head-7"].flags.epochs) == (3, None)


def test_the_folder_is_named_after_the_task():
    assert plan(["--task=cola", "--methods=head"], "").out_dir == Path("runs/cola-compare")


BAD = {
    "no methods": (["--data=toy"], ["--methods", "nothing"]),
    "empty methods": (["--data=toy", "--methods="], ["--methods", "at least 1"]),
    "unknown method": (["--data=toy", "--methods=houlsby,lorra"], ["'lorra'", "houlsby"]),
    "unknown task": (["--task=colla", "--methods=head"], ["'colla'", "cola"]),
    "no task": (["--methods=head"], ["--task"]),
    "misspelled flag": (["--data=toy", "--methods=head", "--bach-size=3"], ["--bach-size", "--batch-size"]),
    "misspelled own flag": (["--data=toy", "--methods=head", "--size=3"], ["--size", "--sizes"]),
    "one method": (["--data=toy", "--methods=head", "--method=head"], ["--method", "--methods"]),
    "field of another method": (["--data=toy", "--methods=head", "--houlsby.preset=paper"], ["--houlsby.preset"]),
    "misspelled field": (["--data=toy", "--methods=houlsby", "--houlsby.presett=paper"], ["preset"]),
    "wrong type": (["--data=toy", "--methods=head", "--batch-size=x"], ["--batch-size", "whole number", "'x'"]),
    "wrong value": (["--data=toy", "--methods=houlsby", "--sizes=0"], ["bottleneck", "at least 1"]),
    "wrong size": (["--data=toy", "--methods=houlsby", "--sizes=8,big"], ["--sizes", "'big'"]),
    "size of a stranger": (["--data=toy", "--methods=houlsby", "--sizes=head:8"], ["--sizes", "'head'"]),
    "size of a method without": (["--data=toy", "--methods=head", "--sizes=head:8"], ["--sizes", "head", "no size"]),
    "rate of nobody": (["--data=toy", "--methods=head", "--lrs=1e-3"], ["--lrs", "METHOD:RATE"]),
    "two rates": (["--data=toy", "--methods=head", "--lrs=head:1,head:2"], ["--lrs", "once"]),
    "bad rate": (["--data=toy", "--methods=head", "--lrs=head:-1"], ["lr", "-1"]),
    "no rate": (["--data=toy", "--methods=head", "--lrs=head:fast"], ["--lrs", "a number", "fast"]),
    "head's rate of nobody": (["--data=toy", "--methods=head", "--head-lrs=1e-3"], ["--head-lrs", "METHOD:RATE"]),
    "no jobs": (["--data=toy", "--methods=head", "--jobs=0"], ["--jobs", "at least 1"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_flags_say_what_is_expected(what: str):
    argv, words = BAD[what]
    with pytest.raises(ConfigError) as caught:
        plan(argv, "")
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.size])
def test_the_size_of_a_method_is_one_of_its_fields(name: str):
    assert getattr(METHODS[name](**{METHODS[name].size: 2}), str(METHODS[name].size)) == 2
