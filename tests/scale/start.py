"""Starts tests/scale/member.py, alone or as a group of processes, and reads what it says."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
QUICK = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def start(told: dict[str, Any], group: dict[str, Any] | None = None) -> subprocess.Popen:
    told = told if group is None else told | {"group": group}
    command = [sys.executable, str(ROOT / "tests" / "scale" / "member.py"), json.dumps(told)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | QUICK, **given)


def start_group(told: dict[str, Any], count: int, **group: Any) -> list[subprocess.Popen]:
    address = f"127.0.0.1:{free_port()}"
    common = {"coordinator": address, "processes": count, "heartbeat": 10, "patience": 120} | group
    return [start(told, common | {"process": number}) for number in range(count)]


def said(process: subprocess.Popen, seconds: float = 600) -> list[dict[str, Any]]:
    """The lines of JSON of a process that ends well."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def stop(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
        process.communicate()
