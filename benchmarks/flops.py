"""Compiled FLOPs of one training step: Houlsby, the same without any frozen tree, full fine-tuning.

    python -m benchmarks.flops

The model is unrolled, since XLA's cost analysis counts the body of a loop once. Nothing is executed: shapes suffice.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import adapters_jax as aj
from adapters_jax import optim, trees
from adapters_jax.bert import weights
from adapters_jax.methods import Method
from adapters_jax.training.prng import platform_default
from adapters_jax.training.step import dropout_key, init_state, make_train_step
from benchmarks import report


def batch_shapes(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    tokens = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in ("input_ids", "token_type_ids", "mask")}
    return tokens | {
        "labels": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }


def optimizer() -> tuple[optax.GradientTransformation, Any]:
    return optim.make_optimizer(
        "adamw", lr=1e-3, total_steps=100, warmup=0.1, schedule="linear", weight_decay=0.01, clip_norm=1.0
    )


def flops(function: Any, *args: Any) -> tuple[float, float]:
    """(FLOPs of the compiled function, seconds of compilation)."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    return compiled.cost_analysis()["flops"], time.perf_counter() - start


def step_flops(model: aj.Model, rows: int, length: int) -> tuple[float, float]:
    """Of the step that `fit` takes."""
    params = model.abstract(weights.abstract(model.config))
    labels = model.labels(params)
    trained, frozen = trees.split(params, labels)
    tx, _ = optimizer()
    tx = aj.freeze(tx, labels)
    state = jax.eval_shape(lambda trained: init_state(trained, tx), trained)
    step = make_train_step(model, tx, impl=platform_default())
    return flops(step, state, frozen, batch_shapes(rows, length))


def adapters_only_flops(model: aj.Model, rows: int, length: int) -> tuple[float, float]:
    """Of a step that knows of no frozen tree: the trained leaves are the parameters, the rest is an input."""
    params = model.abstract(weights.abstract(model.config))
    trained, frozen = trees.split(params, model.labels(params))
    tx, _ = optimizer()
    key = dropout_key(0, platform_default(), 0, 0)

    def step(trained, opt_state, frozen, batch):
        def loss(trained):
            total, weight = model.loss(trees.join(trained, frozen), batch, key)
            return total / weight

        value, gradients = jax.value_and_grad(loss)(trained)
        updates, opt_state = tx.update(gradients, opt_state, trained)
        return optax.apply_updates(trained, updates), opt_state, value

    return flops(step, trained, jax.eval_shape(tx.init, trained), frozen, batch_shapes(rows, length))


def full_tree_flops(model: aj.Model, rows: int, length: int) -> tuple[float, float]:
    """Of a user's own loop over the full tree, where only `aj.freeze` knows what is frozen."""
    params = model.abstract(weights.abstract(model.config))
    tx = aj.freeze(optimizer()[0], model.labels(params))
    key = dropout_key(0, platform_default(), 0, 0)

    def step(params, opt_state, batch):
        def loss(params):
            total, weight = model.loss(params, batch, key)
            return total / weight

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return aj.apply_updates(params, updates), opt_state, value

    return flops(step, params, jax.eval_shape(tx.init, params), batch_shapes(rows, length))


def measure(config: aj.BertConfig, method: Method, rows: int, length: int) -> dict[str, dict[str, float]]:
    """Name -> FLOPs and compile seconds of each variant."""
    build = lambda method: aj.Model(config, method, aj.Classification(num_labels=3), scan_layers=False)
    found = {
        "step": step_flops(build(method), rows, length),
        "adapters only": adapters_only_flops(build(method), rows, length),
        "full tree, frozen by labels": full_tree_flops(build(method), rows, length),
        "full fine-tuning": step_flops(build(aj.Full()), rows, length),
    }
    return {name: {"flops": count, "compile_seconds": seconds} for name, (count, seconds) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--bottleneck", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    args = parser.parse_args()
    found = measure(aj.BertConfig.base(), aj.Houlsby(bottleneck=args.bottleneck), args.rows, args.length)
    alone, full = found["adapters only"]["flops"], found["full fine-tuning"]["flops"]
    print(f"BERT-base, {args.rows} rows of {args.length}, bottleneck {args.bottleneck}, float32\n")
    rows = [
        (
            name,
            f"{v['flops'] / 1e9:.1f}",
            f"{v['flops'] / alone:.3f}",
            f"{v['flops'] / full:.3f}",
            f"{v['compile_seconds']:.0f}",
        )
        for name, v in found.items()
    ]
    print(report.table(("step", "GFLOP", "of adapters only", "of full fine-tuning", "compile s"), rows))
    report.write(
        args.out / "flops.json", {"arguments": vars(args) | {"out": None}, "results": found} | report.surroundings()
    )


if __name__ == "__main__":
    main()
