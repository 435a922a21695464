"""Settings refuse what cannot be used, before anything is compiled, in one line."""

import dataclasses
import math

import pytest

from adapters_jax import optim
from adapters_jax.errors import ConfigError
from adapters_jax.methods import METHODS
from adapters_jax.training import settings
from adapters_jax.training.settings import Settings
from tests.methods.table import ROWS_BY_NAME


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"accumulate": 0}, "accumulate"),
        ({"accumulate": 3}, "accumulate: expected a divisor of the batch size 32, got 3"),
        ({"epochs": 0.0}, "epochs: expected a finite number above 0"),
        ({"epochs": math.inf}, "epochs"),
        ({"epochs": None, "steps": 0}, "steps"),
        ({"epochs": None}, "expected one of steps and epochs"),
        ({"steps": 10}, "expected one of steps and epochs"),
        ({"lr": 0.0}, "lr: expected a finite number above 0, got 0.0"),
        ({"lr": math.nan}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"warmup": 1.5}, "warmup: expected a finite number of at least 0 and at most 1, got 1.5"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"seed": -1}, "seed"),
        ({"max_length": 2}, "max_length"),
        ({"log_every": 0}, "log_every"),
        ({"save_every": 0}, "save_every"),
        ({"eval_every": 0}, "eval_every"),
        ({"early_stop": 0}, "early_stop"),
        ({"keep": "bets"}, "did you mean 'best'"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"schedule": "cosine"}, "known are linear, constant"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        Settings(**({"lr": 1e-3, "epochs": 1.0} | change))
    assert "\n" not in str(error.value)


def test_names_are_those_of_the_optimisers():
    assert set(settings.OPTIMIZERS) == set(optim.OPTIMIZERS)
    assert settings.SCHEDULES == optim.SCHEDULES


@pytest.mark.parametrize("name", METHODS)
def test_recipe_of_each_method(name):
    recipe = ROWS_BY_NAME[name].tiny.recipe
    made = Settings.from_recipe(recipe)
    assert (made.lr, made.epochs, made.optimizer) == (recipe.lr, recipe.epochs, recipe.optimizer)


def test_overrides():
    recipe = METHODS["houlsby"]().recipe
    made = Settings.from_recipe(recipe, lr=1.0, epochs=None, steps=7)
    assert (made.lr, made.steps, made.epochs) == (1.0, 7, None)
    again = Settings.from_recipe(made, epochs=2.0)
    assert (again.lr, again.steps, again.epochs) == (1.0, None, 2.0)
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        Settings.from_recipe(recipe, warmpu=0.1)


def test_total_steps():
    made = Settings(lr=1e-3, epochs=2.5)
    assert made.total_steps(3) == 8
    assert dataclasses.replace(made, epochs=1e-9).total_steps(3) == 1
    assert Settings(lr=1e-3, steps=5).total_steps(3) == 5
    # In floats 0.07 x 100 is a little more than 7.
    assert Settings(lr=1e-3, epochs=0.07).total_steps(100) == 7


def test_names_are_those_of_the_library():
    """Settings are checked without importing JAX, so the names stand twice."""
    assert tuple(optim.OPTIMIZERS) == settings.OPTIMIZERS and optim.SCHEDULES == settings.SCHEDULES
