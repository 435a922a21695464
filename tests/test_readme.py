"""The README's library example runs as it stands."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_library_example_runs(repo: Path, tmp_path: Path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(blocks[0], "README.md", "exec"), scope)
    assert (tmp_path / "runs" / "films" / "manifest.json").is_file()
    assert scope["report"].metrics["accuracy"] == 1.0
    assert capsys.readouterr().out.rstrip().endswith("]")
