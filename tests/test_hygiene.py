"""What must not stand in any file of the project."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# path -> why it may be longer than 350 lines
LONG_FILES: dict[str, str] = {}

# Assembled from pieces so that this file does not contain what it forbids.
FORBIDDEN = {
    "a package registry's host": r"(?:py" + r"pi\.(?:org|python)|python" + r"hosted\.org|registry" + r"\.npm)",
    "an index option": r"--(?:extra-)?index-" + r"url|--find-" + r"links",
    "an absolute machine path": r"(?<![\w.$}])/(?:work|home|root|Users)/" + r"[a-z]",
    "a relative way out of the repository": r"\.\./" + r"shared",
}


def project_files() -> list[Path]:
    """Tracked and untracked files that git does not ignore; every file where git is absent."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return sorted(ROOT / name for name in set(listed.stdout.split("\0")) - {""} if (ROOT / name).is_file())


def texts() -> dict[str, str]:
    found = {}
    for path in project_files():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text()
        except UnicodeDecodeError:
            continue
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_name_no_private_place(what: str):
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts().items()
        if name != "tests/conftest.py"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_the_patterns_find_what_they_forbid():
    examples = {
        "a package registry's host": "https://files.python" + "hosted.org/packages",
        "an index option": "pip install --index-" + "url=x",
        "an absolute machine path": "cat /work" + "/main/x",
        "a relative way out of the repository": "data = ../" + "shared/data",
    }
    assert all(re.search(FORBIDDEN[what], example) for what, example in examples.items())


def test_python_files_stay_short():
    lengths = {name: text.count("\n") for name, text in texts().items() if name.endswith(".py")}
    long = {name for name, lines in lengths.items() if lines > 350}
    assert long <= set(LONG_FILES), f"over 350 lines: {sorted(long - set(LONG_FILES))}"
    assert set(LONG_FILES) <= long, f"no longer over 350 lines: {sorted(set(LONG_FILES) - long)}"


def test_no_file_is_large():
    large = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path in project_files()
        if path.stat().st_size > 2**20
    }
    assert not large


def test_the_makefile_targets_are_the_documented_ones():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "test", "demo", "lint", "parity", "wheel", "bench", "clean"} <= targets
