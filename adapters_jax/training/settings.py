"""What a training run is made of besides model and data: lengths, rates, and how often things happen."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from adapters_jax.errors import ConfigError, unknown

OPTIMIZERS = ("adamw", "adam_no_bias_correction", "adafactor")
SCHEDULES = ("linear", "constant")
KEEP = ("best", "last")


FREE = ("eval_batch_size", "save_every", "log_every", "tensorboard", "mesh", "shard_adapters")
"""What changes no parameter, and may be another when a run is resumed."""


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Exactly one of `steps` (optimiser steps) and `epochs` (passes over the data, may be a fraction) is given.
    `warmup` is a fraction of the steps; `clip_norm` bounds the gradient's global norm (0: no clipping);
    `accumulate` splits a batch into that many parts, which changes memory but not the gradient;
    `eval_every`, `save_every` and `log_every` count steps (`eval_every=None`: once per epoch; a new best step and the
    last one are saved in any case); `early_stop` is the number of evaluations without improvement after which training
    ends; `keep` says which step's parameters come out, "best" by the metric or "last"; `head_lr` is the rate of the
    head's leaves where it is not `lr`: a fresh head on frozen features wants a larger one than what stands below it.

    Raises ConfigError for a value that cannot be used.
    """

    lr: float
    epochs: int | float | None = None
    steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    max_length: int = 128
    eval_every: int | None = None
    save_every: int = 500
    log_every: int = 50
    keep: str = "best"
    early_stop: int | None = None
    head_lr: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "accumulate", "log_every", "save_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("steps", "eval_every", "early_stop"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("max_length", self.max_length, 3)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: expected a whole number from 0 to {2**32 - 1}, got {self.seed!r}")
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(f"expected one of steps and epochs, got steps={self.steps} and epochs={self.epochs}")
        if self.epochs is not None:
            _number("epochs", self.epochs, low=0.0, open_low=True)
        _number("lr", self.lr, low=0.0, open_low=True)
        if self.head_lr is not None:
            _number("head_lr", self.head_lr, low=0.0, open_low=True)
        _number("warmup", self.warmup, low=0.0, high=1.0)
        _number("weight_decay", self.weight_decay, low=0.0)
        _number("clip_norm", self.clip_norm, low=0.0)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate: expected a divisor of the batch size {self.batch_size}, got {self.accumulate}"
            )
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("keep", KEEP)):
            if getattr(self, name) not in known:
                raise ConfigError(unknown(name, str(getattr(self, name)), known))

    @classmethod
    def from_recipe(cls, recipe: Any, **overrides: Any) -> "Settings":
        """The settings that a method's recipe, or other settings, ask for, with every override that is not None.

        An override of `steps` replaces the recipe's epochs, and the other way round.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                raise ConfigError(unknown("setting", name, names))
        given = {name: value for name, value in overrides.items() if value is not None}
        values = {name: getattr(recipe, name) for name in names if hasattr(recipe, name)}
        for name, other in (("steps", "epochs"), ("epochs", "steps")):
            if name in given:
                values.pop(other, None)
        return cls(**(values | given))

    def total_steps(self, steps_per_epoch: int) -> int:
        """The number of optimiser steps, given how many one pass over the data takes."""
        if self.epochs is None:
            return self.steps or 0
        # Less what a product of floats may be too large by: 0.07 epochs of 100 steps are 7.
        return max(1, math.ceil(self.epochs * steps_per_epoch - 1e-9))


def _at_least(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name}: expected a whole number of at least {low}, got {value!r}")


def _number(name: str, value: Any, low: float, high: float = math.inf, open_low: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (open_low and value == low):
        expected = "above" if open_low else "of at least"
        limit = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ConfigError(f"{name}: expected a finite number {expected} {low:g}{limit}, got {value!r}")
