"""What a run says: metrics.jsonl, a progress bar or plain lines, TensorBoard."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adapters_jax.errors import ConfigError
from adapters_jax.training.run import write_atomically, writing

METRICS = "metrics.jsonl"


class Logger:
    """Writes each line of metrics.jsonl as it happens, and shows the run on the console.

    Args:
        total: the steps of the whole run, for the progress bar.
        folder: where metrics.jsonl goes; None writes no file.
        tensorboard: also write event files to folder/tensorboard.
        quiet: show nothing.
        console: where to show; default is standard error.

    Raises:
        ConfigError: TensorBoard is asked for and tensorboardX is not installed, or there is no folder.
    """

    def __init__(
        self,
        total: int,
        folder: Path | None = None,
        *,
        tensorboard: bool = False,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._total = total
        self._path = None if folder is None else folder / METRICS
        self._open_events = _event_writer(folder) if tensorboard else None
        self._writer: Any = None
        self._console = console or Console(stderr=True, quiet=quiet, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total)

    def start(self, step: int) -> None:
        """Continues from `step` (0: from the start); lines of later steps, which will be taken again, are dropped."""
        if self._path is not None:
            with writing(self._path.parent):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            restarted = self._path.exists()
            kept = [line for line in _lines(self._path) if _step(line) <= step] if restarted else []
            write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept))
            if restarted:
                self._append({"resumed_from": step})
                self.say(f"resumed from step {step}")
        if self._open_events is not None:
            self._writer = self._open_events(purge_step=step + 1)
        self._bar.update(self._task, completed=step)

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one training step: `{"step", "loss", "lr", ...}`."""
        self._append({"step": step, **values})
        self._events("train", step, values)
        self._bar.update(self._task, description=f"loss {values['loss']:.4f}")
        if not self._console.is_terminal:
            self.say(f"step {step}/{self._total}  {_show(values)}")

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one evaluation: `{"step", "eval": {...}}`."""
        self._append({"step": step, "eval": dict(values)})
        self._events("eval", step, values)
        self.say(f"step {step}/{self._total}  eval  {_show(values)}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def __enter__(self) -> "Logger":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _events(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)


def _event_writer(folder: Path | None) -> Callable[..., Any]:
    if folder is None:
        raise ConfigError("tensorboard: expected an out_dir to write event files to, got none")
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tensorboard: tensorboardX is not installed; pip install 'adapters-jax[tensorboard]'"
        ) from None
    return functools.partial(SummaryWriter, str(folder / "tensorboard"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file whose last one may have been cut off."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _step(line: dict[str, Any]) -> int:
    return line.get("step", line.get("resumed_from", 0))


def _show(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
