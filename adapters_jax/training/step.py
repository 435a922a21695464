"""One training step as a pure function of (state, frozen leaves, batch), and its compilation per batch shape."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adapters_jax import optim, trees
from adapters_jax.sharding import Layout
from adapters_jax.training.prng import IMPLEMENTATIONS
from adapters_jax.training.settings import Settings
from adapters_jax.types import Batch, Key, Tree


class State(NamedTuple):
    """What training changes.

    `trained` is the tree of parameters with holes where leaves are frozen; `step` counts the steps taken; `bad_step` is
    the first step whose loss, gradient or result was not finite (0: none). From that step on the state stays as it was
    before, so a state is always fit to be saved. `seed` is that of dropout; it is data, like the optimiser's learning
    rate, so that one compiled step serves all seeds and rates.
    """

    trained: Tree
    opt_state: Any
    step: jax.Array
    bad_step: jax.Array
    seed: jax.Array


def make_optimizer(
    model: Any, settings: Settings, total: int, labels: Tree, branches: Tree | None = None
) -> tuple[optax.GradientTransformation, optim.Schedule]:
    """The optimiser of a run over trees with holes, the method's part in it included, and its learning rate by step.

    Args:
        model: its method says what is decayed, and wraps the optimiser.
        settings, total: of the run.
        labels: `Model.labels(params)`.
        branches: see `optim.make_optimizer`.
    """
    tx, schedule = optim.make_optimizer(
        settings.optimizer,
        lr=settings.lr,
        total_steps=total,
        warmup=settings.warmup,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        head_lr=settings.head_lr,
        decays=model.method.decays,
        branches=branches,
        around=lambda tx: model.method.transform(tx, total),
    )
    return optim.freeze(tx, labels), schedule


def init_state(trained: Tree, tx: optax.GradientTransformation, seed: int = 0, layout: Layout | None = None) -> State:
    """The state before the first step; copies the leaves, since a step gives its input's memory to its output.

    Args:
        trained: with holes.
        tx: the optimiser.
        seed: of dropout.
        layout: where the leaves go, and what mirrors them; None for the first device.
    """

    def start(trained: Tree) -> State:
        trained = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), trained)
        # One array each: a donated buffer may stand for one leaf only.
        step, bad_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return State(trained, tx.init(trained), step, bad_step, jnp.asarray(seed, jnp.uint32))

    if layout is None:
        return start(trained)
    # Made where it lies, so that no device holds all of what is split; scalars are then of all processes, too.
    places = state_shardings(jax.eval_shape(start, trained), layout)
    return jax.jit(start, out_shardings=places)(layout.put(trained))


def state_shardings(state: State, layout: Layout) -> State:
    """Where each leaf of a state lies."""
    return layout.like(state, state.trained)


def dropout_key(seed: Any, impl: str, step: Any, part: Any) -> Key:
    """The key of one part of one step's batch: nothing to store, nothing to restore."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed, impl=IMPLEMENTATIONS[impl]), step), part)


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    *,
    impl: str,
    accumulate: int = 1,
) -> Callable[[State, Tree, Batch], tuple[State, dict[str, jax.Array]]]:
    r"""The function (state, frozen, batch) -> (state, {"loss", "grad_norm", ...}), not yet compiled.

    The loss is $\sum_i w_i \ell_i / \sum_i w_i + penalty$ in float32 over the rows i of the batch; differentiated are
    the trained leaves alone.

    Args:
        model: has loss(params, batch, key) -> (weighted sum of the rows' losses, sum of weights), penalty(params),
            measures(params) -> what else a step logs.
        tx: the optimiser over trees with holes.
        impl: a key of `prng.IMPLEMENTATIONS`.
        accumulate: parts of a batch that go through the model one after the other; each draws its own dropout.
    """

    def part_loss(trained: Tree, frozen: Tree, batch: Batch, total: jax.Array, key: Key) -> jax.Array:
        params = trees.join(trained, frozen)
        return model.loss(params, batch, key)[0] / total + model.penalty(params) / accumulate

    def gradient(state: State, frozen: Tree, batch: Batch) -> tuple[jax.Array, Tree]:
        total = jnp.maximum(jnp.sum(batch["weight"]), 1e-9)

        def part(index: Any, rows: Batch) -> tuple[jax.Array, Tree]:
            key = dropout_key(state.seed, impl, state.step, index)
            return jax.value_and_grad(part_loss)(state.trained, frozen, rows, total, key)

        if accumulate == 1:
            return part(0, batch)

        def add(carry: Any, scanned: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, part(*scanned)), None

        # Part i takes rows i, i + accumulate, ...: rows that stand together on one device are spread over all parts.
        apart = lambda leaf: leaf.reshape(-1, accumulate, *leaf.shape[1:]).swapaxes(0, 1)
        parts = {name: apart(leaf) for name, leaf in batch.items()}
        zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, state.trained))
        return jax.lax.scan(add, zeros, (jnp.arange(accumulate), parts))[0]

    def step(state: State, frozen: Tree, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        loss, gradients = gradient(state, frozen, batch)
        norm = optax.tree.norm(gradients)
        updates, opt_state = tx.update(gradients, state.opt_state, state.trained)
        trained = optim.apply_updates(state.trained, updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        for leaf in jax.tree.leaves(trained):
            finite &= jnp.all(jnp.isfinite(leaf))
        bad_step = jnp.where((state.bad_step == 0) & ~finite, state.step + 1, state.bad_step)
        taken = State(trained, opt_state, state.step + 1, bad_step, state.seed)
        kept = state._replace(bad_step=bad_step)
        good = bad_step == 0
        after = jax.tree.map(lambda new, old: jnp.where(good, new, old), taken, kept)
        return after, {"loss": loss, "grad_norm": norm} | model.measures(trees.join(after.trained, frozen))

    return step


class PerShape:
    """A function compiled ahead of time, once per shapes and types of its arguments.

    `compilations` and `seconds` (tracing and compiling) count what that took.

    Args:
        function: pure.
        donate: positions of arguments whose memory the results may take.
        mesh: of the arguments; None: they are on one device.
        places: the shardings of the results, as `jax.jit` takes them; None: the compiler's choice.
    """

    def __init__(
        self, function: Callable[..., Any], donate: tuple[int, ...] = (), mesh: Any = None, places: Any = None
    ) -> None:
        self._jitted = jax.jit(function, donate_argnums=donate, out_shardings=places)
        self._mesh = mesh
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self.seconds = 0.0

    @property
    def compilations(self) -> int:
        return len(self._compiled)

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if shapes not in self._compiled:
            jax.block_until_ready(args)  # else the seconds would count steps that are still being computed
            start = time.perf_counter()
            self._compiled[shapes] = self.lower(*args).compile()
            self.seconds += time.perf_counter() - start
        return self._compiled[shapes](*args)

    def lower(self, *args: Any) -> Any:
        """The program for arguments, or their shapes, before it is compiled."""
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            return self._jitted.lower(*args)


def train_program(step: Callable[..., Any], state: Any, layout: Layout | None = None) -> PerShape:
    """A training step, to be compiled; the state comes back where it was.

    Args:
        step: of `make_train_step`.
        state: arrays or shapes.
        layout: of the state, the frozen leaves and the batch; None for one device.
    """
    if layout is None:
        return PerShape(step, donate=(0,))
    return PerShape(step, donate=(0,), mesh=layout.mesh, places=(state_shardings(state, layout), layout.everywhere))


@functools.lru_cache(maxsize=16)
def eval_step(model: Any, layout: Layout | None = None) -> PerShape:
    """(params, batch) -> answers [b c] in float32, without dropout; compiled for all who ask for the same model.

    On a mesh every device gets all answers.
    """
    if layout is None:
        return PerShape(model.answers)
    return PerShape(model.answers, mesh=layout.mesh, places=layout.everywhere)
