"""Every task that has a name: GLUE's nine, and `toy`, the generated one."""

import os
from collections.abc import Callable

from adapters_jax.data import toy
from adapters_jax.data.glue import DEFAULT_CACHE, find_data
from adapters_jax.data.source import Splits
from adapters_jax.data.tasks import TASKS, find_task, recipe
from adapters_jax.errors import ConfigError, unknown

TOY = "toy"
NAMES = (*TASKS, TOY)
ANY = "any method"
RECIPES = {
    "dependencies": {"k_adapter": {"lr": 2e-5, "epochs": 10.0, "batch_size": 32}},
    "squad": {"full": {"lr": 5e-5, "epochs": 3.0, "batch_size": 32}, ANY: {"epochs": 3.0}},
}
"""Of jobs on files of the user's own, by method. Sources: microsoft/K-Adapter, run_pretrain_lin-adapter.sh; Devlin et
al. (2019), section 4.2, whose epochs serve other methods too (each sees SQuAD's 87,599 questions three times)."""


def open_task(
    name: str,
    data: str = "auto",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike = DEFAULT_CACHE,
    report: Callable[[str], object] = lambda message: None,
) -> Splits:
    """All splits of a task; the arguments but `name` are those of `find_data`, the generated task needs none."""
    if name not in NAMES:
        raise ConfigError(unknown("task", name, NAMES))
    if name == TOY:
        return toy.toy_splits()
    return find_data(name, data, data_dir, cache_dir=cache_dir, report=report)


def task_metrics(name: str) -> tuple[tuple[str, ...], str]:
    """(what the task is scored by, the one that chooses the best step)."""
    if name == TOY:
        return ("accuracy",), "accuracy"
    task = find_task(name)
    return task.metrics, task.best_metric


def task_recipe(name: str, method: str) -> dict[str, float]:
    """What a task needs otherwise than the method's recipe says: some of epochs, lr, batch_size; often nothing."""
    if name == TOY:
        return dict(toy.RECIPES.get(method, {}))
    own = RECIPES.get(name, {})
    return recipe(name, method) if name in TASKS else dict(own.get(method, own.get(ANY, {})))
