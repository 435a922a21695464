"""A run's own programs compiled for devices that are not there: what they need, before a chip is paid for."""

import dataclasses
import functools
import math
import re
import time
from typing import Any

import jax
import numpy as np

from adapters_jax import trees
from adapters_jax.analysis.collectives import Collective, collectives
from adapters_jax.analysis.flops import matmul_flops
from adapters_jax.data.tokenize import Encoded
from adapters_jax.errors import ConfigError
from adapters_jax.sharding import Layout
from adapters_jax.training.evaluate import INPUTS
from adapters_jax.training.fit import check_layout
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import (
    eval_step,
    init_state,
    make_optimizer,
    make_train_step,
    state_shardings,
    train_program,
)
from adapters_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    Attributes:
        rows, tokens: of a batch.
        flops: of its matrix products, of all devices together.
        peak: bytes of each device at the worst moment, with all that a run holds besides; None where the compiler finds
            no room for the program alone.
        temporary: of these, what is neither argument nor result: activations.
        touched: bytes of leaves that each device reads and writes.
        collectives: what it sends.
        seconds: of tracing and compiling.
        problem: what the compiler said where it does not fit.
    """

    rows: int
    tokens: int
    flops: int
    peak: int | None
    temporary: int
    touched: int
    collectives: tuple[Collective, ...]
    seconds: float
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A training step and an evaluation step on a mesh.

    Attributes:
        mesh: axis -> size.
        train, evaluation: the programs.
        held: bytes on each device: "weights" (frozen leaves), "trained", "optimizer", and "loaded": what training began
            with of the backbone's trained leaves, which `fit` leaves as it is.
    """

    mesh: dict[str, int]
    train: Program
    evaluation: Program
    held: dict[str, int]


def rehearse(model: Any, backbone: Tree, settings: Settings, layout: Layout, impl: str, slices: int = 1) -> Rehearsal:
    """Compiles what `fit` would run, ahead of time and without arrays.

    Args:
        model: see `Model`.
        backbone: of shapes, `bert.weights.abstract`.
        settings: of the run; batches are of `max_length` tokens.
        layout: on the devices, or on a description of them (`jax.experimental.topologies`).
        impl: the generator of dropout's keys on these devices, see `prng.IMPLEMENTATIONS`.
        slices: of the pod.

    Raises:
        ConfigError: batches that the mesh cannot split, a layout that does not fit the leaves.
    """
    check_layout(settings, layout)
    params = model.abstract(backbone)
    labels = model.labels(params)
    total = settings.total_steps(1000)
    tx, _ = make_optimizer(model, settings, total, labels)
    trained, frozen = trees.split(params, labels)
    state = jax.eval_shape(lambda leaves: init_state(leaves, tx), trained)
    placed = _placed(state, state_shardings(state, layout))
    frozen, whole = _placed(frozen, layout.params(frozen)), _placed(params, layout.params(params))
    step = make_train_step(model, tx, impl=impl, accumulate=settings.accumulate)
    batch = _batch(model, settings.batch_size, settings.max_length, layout)
    rows = settings.eval_batch_size + -settings.eval_batch_size % layout.batch_parts
    held_out = _batch(model, rows, settings.max_length, layout)
    held_out = {name: held_out[name] for name in (*INPUTS, *model.head.inputs)}
    held = {
        "weights": _size(frozen),
        "trained": _size(placed.trained),
        "optimizer": _size(placed.opt_state),
        "loaded": _loaded(backbone, trained, layout),
    }
    leaves = held["weights"] + held["trained"]
    compiled = functools.partial(_compiled, mesh=dict(layout.mesh.shape), slices=slices, length=settings.max_length)
    train = compiled(
        train_program(step, state, layout),
        step,
        (placed, frozen, batch),
        beside=held["loaded"],
        touched=2 * leaves + held["trained"] + 2 * held["optimizer"],
    )
    evaluation = compiled(
        eval_step(model, layout),
        model.answers,
        (whole, held_out),
        beside=held["loaded"] + held["optimizer"],
        touched=leaves,
    )
    return Rehearsal(dict(layout.mesh.shape), train, evaluation, held)


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places)


def _batch(model: Any, rows: int, length: int, layout: Layout) -> dict[str, Any]:
    """The arrays of a batch as shapes, by way of one row of nonsense."""
    kind = np.int32 if model.head.name == "classification" else np.float32
    one = Encoded(
        ids=np.zeros(length, np.int32),
        offsets=np.array([0, length]),
        second=np.array([length], np.int32),
        labels=np.zeros(1, kind),
        truncated=0,
        max_length=length,
        pad_id=0,
    )
    made = one.batch(np.array([0]), length)
    missing = [name for name in model.head.inputs if name not in made]
    if missing:
        raise ConfigError(f"rehearsal: expected a head for classes or a regression, got {model.head.name}")
    return {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=layout.rows)
        for name, leaf in made.items()
    }


def _compiled(
    program: Any,
    function: Any,
    args: tuple,
    *,
    mesh: dict[str, int],
    slices: int,
    length: int,
    beside: int,
    touched: int,
) -> Program:
    """`beside`: bytes of each device that are none of the program's arguments."""
    flops = matmul_flops(function, *args)
    start = time.perf_counter()
    lowered = program.lower(*args)
    rows = args[-1]["input_ids"].shape[0]
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Program(rows, length, flops, None, 0, touched, (), time.perf_counter() - start, _shortage(str(error)))
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = arguments + memory.temp_size_in_bytes + beside
    sent = tuple(collectives(compiled.as_text(), mesh, slices))
    return Program(rows, length, flops, peak, memory.temp_size_in_bytes, touched, sent, seconds)


def _shortage(message: str) -> str:
    """The compiler's sentence on memory."""
    found = re.search(r"Used [\d.]+[KMGT]? of [\d.]+[KMGT]? hbm", message)
    return found[0] if found else " ".join(message.split())[:200]


def _size(tree: Any) -> int:
    """Bytes of each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _loaded(backbone: Tree, trained: Tree, layout: Layout) -> int:
    """Bytes of each device of the backbone's leaves that are trained: as loaded, and widened where they are narrow."""
    if not jax.tree.leaves(trained.get("backbone", {})):
        return 0
    widened = {"backbone": trained["backbone"]}
    narrow = {str(leaf.dtype) for leaf in jax.tree.leaves(backbone)} - {"float32"}
    size = _size(_placed(widened, layout.params(widened)))
    return size + size // 2 * bool(narrow)
