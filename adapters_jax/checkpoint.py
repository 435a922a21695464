"""Training checkpoints: the one module that knows Orbax.

    folder/12/state/...          the state's leaves, in Orbax's own format
    folder/12/metrics/metrics    the score that the best step is chosen by
    folder/12/manifest.json      step, score, metrics, extra, each leaf's shape and dtype, each file's sha256 and size

Orbax restores a flipped bit, a missing side file or another dtype without a word. So each step gets a manifest after
Orbax has committed it, and a step is only restored if all of its files are those of the manifest; one that is not
(or that a killed process left without a manifest) is passed over for the one before, with a warning.
The state is whatever pytree of arrays the caller trains: the trained leaves, the optimiser's state, the step, key data.
"""

import contextlib
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from adapters_jax import manifest, stored, trees
from adapters_jax.errors import CheckpointError

FORMAT = 1
STATE = "state"


class Restored(NamedTuple):
    """A step that was read back: its number, the state shaped as the template, and the dict saved beside it."""

    step: int
    state: Any
    extra: dict[str, Any]


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


class Checkpoints:
    """The checkpoints of one training run, in one folder.

    Nothing is written before the first `save`; that one also removes what is damaged or half-written.

    Args:
        folder: made if need be.
        keep_best: never delete the step with the best score (of equals the earliest).
        max_to_keep: how many of the newest steps stay, at least 2: one to fall back to.
        warn: called with each warning; the default is `warnings.warn`.
    """

    def __init__(
        self, folder: str | Path, keep_best: bool = True, max_to_keep: int = 2, warn: Callable[[str], Any] = _warn
    ) -> None:
        if max_to_keep < 2:
            raise CheckpointError(
                f"max_to_keep: expected at least 2, so that a damaged step has one before it, got {max_to_keep}"
            )
        self.folder = Path(folder).absolute()
        self.keep_best = keep_best
        self.max_to_keep = max_to_keep
        self.warn = warn
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """The committed steps, oldest first, damaged ones included."""
        return steps_in(self.folder)

    def latest(self) -> int | None:
        """The newest step that is whole."""
        return next((step for step in reversed(self.steps()) if not problems(self.folder / str(step))), None)

    def best_step(self) -> int | None:
        """The whole step with the highest score, of equals the earliest; None where none has a score."""
        whole = [step for step in self.steps() if not problems(self.folder / str(step))]
        manifests = [manifest.read(self.folder / str(step), FORMAT) for step in whole]
        scored = [content for content in manifests if content["score"] is not None]
        return max(scored, key=_rank)["step"] if scored else None

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, SupportsFloat] | None = None,
        best: SupportsFloat | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a step; when this returns it is on disk, whole, and older steps that are not kept are gone.

        Args:
            step: greater than every step saved before.
            state: a pytree of arrays (JAX or NumPy, scalars too); keys as `jax.random.key_data`.
            metrics: the evaluation's numbers at this step, to be shown.
            best: the score that the best step is chosen by, higher is better; None: not evaluated.
            extra: JSON values that come back with the state.

        Raises:
            CheckpointError: the folder cannot be written or the disk is full (earlier steps stay as they are), or the
                step is not the newest.
        """
        score = None if best is None else float(best)
        if score is not None and not math.isfinite(score):
            raise CheckpointError(f"score of step {step}: expected a finite number, got {score}")
        flat = {name: stored.storable(name, leaf) for name, leaf in stored.named(state).items()}
        content = {
            "format": FORMAT,
            "kind": "checkpoint",
            "step": step,
            "score": score,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "extra": dict(extra or {}),
            "leaves": {name: stored.signature(leaf) for name, leaf in flat.items()},
            "versions": manifest.versions(),
        }
        with self._writing(step):
            manager = self._manager or self._open()
            newest = manager.latest_step()
            if newest is not None and step <= newest:
                raise CheckpointError(f"step {step} in {self.folder}: expected one after {newest}, the newest saved")
            manager.save(
                step,
                args=ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(trees.unflatten(flat))}),
                metrics={"score": score, "step": step},
            )
            manager.wait_until_finished()
            _by_the_first(lambda: manifest.write(self.folder / str(step), content))

    def restore(self, template: Any, step: int | None = None) -> Restored | None:
        """Read the newest whole step, or the given one, bit for bit; None if the folder holds no step.

        Args:
            template: a pytree like the state saved, of arrays or `jax.ShapeDtypeStruct`; its shardings are kept.
            step: this one and no other.

        Raises:
            CheckpointError: every step is damaged (or the given one is), each named with its first problem; or the
                state saved is not of the template's structure, shapes and dtypes.
        """
        candidates = self.steps()[::-1] if step is None else [step]
        damaged: dict[int, str] = {}
        for candidate in candidates:
            found = problems(self.folder / str(candidate))
            if not found:
                for passed, problem in damaged.items():
                    self.warn(f"step {passed} in {self.folder} is damaged ({problem}); going back to step {candidate}")
                return self._read(candidate, template)
            damaged[candidate] = found[0]
        if not damaged:
            return None
        each = "; ".join(f"step {number}: {problem}" for number, problem in damaged.items())
        raise CheckpointError(f"no step in {self.folder} can be restored: {each}; start anew in another folder")

    def close(self) -> None:
        """Let go of Orbax's threads; the folder can be opened again."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        """Remove what cannot be restored, since retention would count it among the newest steps, and start Orbax."""
        if jax.process_index() == 0:
            for step in self.steps():
                found = problems(self.folder / str(step))
                if found:
                    self.warn(f"step {step} in {self.folder} is damaged ({found[0]}) and is removed")
                    shutil.rmtree(self.folder / str(step))
            self.folder.mkdir(parents=True, exist_ok=True)
        _meet(f"{self.folder} is clean")
        best = [preservation_policy.BestN(get_metric_fn=_rank, n=1)] if self.keep_best else []
        kept = [preservation_policy.LatestN(self.max_to_keep), *best]
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
                best_fn=_rank,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )
        return self._manager

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Whatever stops a save becomes one line; what was half-written goes with the next manager."""
        try:
            with _quiet():
                yield
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            self._clean_up()
            raise CheckpointError(f"step {step} cannot be saved in {self.folder}: {manifest.why(error)}") from error

    def _clean_up(self) -> None:
        """Free what the failed save wrote: on a full disk that is the space that the next try needs."""
        with contextlib.suppress(OSError, ValueError, RuntimeError), _quiet():
            self.close()
        self._manager = None
        if jax.process_index() != 0:  # the first one may still be writing what is not whole yet
            return
        for step in self.steps():
            if not (self.folder / str(step) / manifest.NAME).exists():
                shutil.rmtree(self.folder / str(step), ignore_errors=True)
        for partial in self.folder.glob("*.orbax-checkpoint-tmp*") if self.folder.is_dir() else ():
            shutil.rmtree(partial, ignore_errors=True)

    def _read(self, step: int, template: Any) -> Restored:
        where = self.folder / str(step)
        content = manifest.read(where, FORMAT)
        named = stored.named(template)
        stored.check(where, content["leaves"], {name: stored.signature(leaf) for name, leaf in named.items()})
        arguments = trees.unflatten({name: stored.restore_args(leaf) for name, leaf in named.items()})
        try:
            with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                how = ocp.args.PyTreeRestore(item=arguments, restore_args=arguments)
                flat = trees.flatten(checkpointer.restore(where / STATE, args=how))
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"step {step} in {self.folder} cannot be read: {manifest.one_line(error)}") from error
        stored.check(where, {name: stored.signature(leaf) for name, leaf in flat.items()}, content["leaves"])
        leaves = [stored.like(flat[name], leaf) for name, leaf in named.items()]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(template), leaves), content["extra"])


def steps_in(folder: Path) -> list[int]:
    """The committed steps in a folder, oldest first; names other than plain numbers are no steps."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name)


def problems(step_folder: Path) -> list[str]:
    """What is wrong with one step, one line per file; [] if it is whole. CheckpointError: a newer version wrote it."""
    if not step_folder.is_dir():
        return ["expected a folder, found none"]
    try:
        content = manifest.read(step_folder, FORMAT)
    except manifest.TooNew as error:
        raise CheckpointError(f"{step_folder}: {error}") from None
    except manifest.Damaged as error:
        return [str(error)]
    expected = {"kind": "checkpoint", "step": int(step_folder.name)}
    report = [
        f"{manifest.NAME}: expected {key} {value!r}, got {content.get(key)!r}"
        for key, value in expected.items()
        if content.get(key) != value
    ]
    return report + manifest.problems(step_folder, content)


def _rank(metrics: Mapping[str, Any]) -> Any:
    """Highest score, of equals the earliest; steps without a score come last, the newest of them first."""
    score, step = metrics["score"], metrics["step"]
    return (-math.inf, step) if score is None else (score, -step)


def _by_the_first(write: Callable[[], None]) -> None:
    """Process 0 writes, the others learn how that went.

    Raises:
        OSError: on all of them, if it failed there.
    """
    problem: OSError | None = None
    if jax.process_index() == 0:
        try:
            write()
        except OSError as error:
            problem = error
    if jax.process_count() > 1 and int(multihost_utils.broadcast_one_to_all(np.int32(problem is not None))):
        problem = problem or OSError("process 0 could not write its manifest")
    if problem is not None:
        raise problem


def _meet(name: str) -> None:
    """Wait for the other processes, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax's threads log a traceback for what is raised here anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
