"""The run folder: one configuration, one writer, resumed when started again, its result printed once it is finished."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from adapters_jax.errors import CheckpointError
from adapters_jax.training.settings import FREE

CONFIG, RESULT, LOCK = "config.yaml", "result.json", ".lock"
PARTS = (RESULT, "metrics.jsonl", "checkpoints", "adapter", "predictions", "tensorboard", CONFIG)
"""What a run writes, in the order in which `overwrite` removes it: the configuration, which marks the folder, last."""


def finished(out_dir: str | Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished run of this configuration in a folder; None if there is none. Nothing is written.

    Raises CheckpointError if the folder holds a run of another configuration.
    """
    path = Path(out_dir)
    if not (path / CONFIG).is_file():
        return None
    refuse_another(path, _read_config(path / CONFIG), yaml.safe_load(yaml.safe_dump(config)))
    return _read_result(path / RESULT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses while `path` is written into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{path}: cannot write: {reason}; free space or choose another --out-dir") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that whoever reads it, even after a crash, finds the old text or the new one.

    Raises CheckpointError where it cannot be written.
    """
    with writing(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class RunFolder:
    """A folder that holds one run, held by one process at a time.

    `path` is the folder, `result` what a finished run wrote (None while it is not finished). Close it, or use it as a
    context manager, to let another process in.
    """

    def __init__(self, path: Path, result: dict[str, Any] | None, lock: int) -> None:
        self.path = path
        self.result = result
        self._lock = lock

    @classmethod
    def open(cls, out_dir: str | Path, config: dict[str, Any], *, overwrite: bool = False) -> "RunFolder":
        """Makes the folder, or opens that of the same configuration.

        Args:
            out_dir: the folder; missing and empty ones become run folders.
            config: the resolved configuration, as plain values; written to config.yaml.
            overwrite: remove what an earlier run left here, and nothing else.

        Raises:
            CheckpointError: the folder holds something else, or a run of another configuration (its differences are
                named), another process uses it, or it cannot be written.
        """
        path = Path(out_dir)
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path}: expected a folder, found a file; choose another --out-dir")
        with writing(path):
            names = sorted(x.name for x in path.iterdir()) if path.exists() else []
            strangers = [name for name in names if name != LOCK and not name.startswith(f".{CONFIG}.")]
            if strangers and not (path / CONFIG).exists():
                raise CheckpointError(
                    f"{path}: expected an empty folder or that of a run, found {', '.join(strangers[:5])} and no "
                    f"{CONFIG}; choose another --out-dir"
                )
            path.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        try:
            if overwrite:
                with writing(path):
                    _remove_run(path)
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            if (path / CONFIG).exists():
                refuse_another(path, _read_config(path / CONFIG), yaml.safe_load(text))
            else:
                write_atomically(path / CONFIG, text)
            return cls(path, _read_result(path / RESULT), lock)
        except BaseException:
            os.close(lock)
            raise

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as finished. Raises CheckpointError where it cannot be written."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=2) + "\n")
        self.result = result

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_lock(path: Path) -> int:
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CheckpointError(
            f"{path}: another process is training here; wait for it, or choose another --out-dir"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_run(path: Path) -> None:
    for name in PARTS:
        part = path / name
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def differences(found: Any, asked: Any, most: int = 6) -> str:
    """How two configurations (nested dicts of plain values) differ, in one line; empty where they are equal."""
    left, right, absent = _flat(found), _flat(asked), "nothing"
    lines = [
        f"{key} is {left.get(key, absent)!r} there and {right.get(key, absent)!r} here"
        for key in dict.fromkeys([*left, *right])
        if left.get(key, absent) != right.get(key, absent)
    ]
    return "; ".join(lines[:most]) + (f" and {len(lines) - most} more" if len(lines) > most else "")


def refuse_another(where: Path, found: Any, asked: Any) -> None:
    """Raises CheckpointError, naming the differences, unless both configurations are equal but for what is free."""
    free = lambda config: {k: v for k, v in config.items() if k not in FREE} if isinstance(config, dict) else config
    if differing := differences(free(found), free(asked)):
        raise CheckpointError(
            f"{where}: holds a run of another configuration: {differing}; "
            "choose another --out-dir, or start anew with --overwrite"
        )


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    flat = {}
    for key, value in config.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _read_config(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read; --overwrite starts anew") from error


def _read_result(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read; --overwrite starts anew") from error
