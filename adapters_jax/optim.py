"""Optimisers over trees with frozen leaves: labels -> `optax.multi_transform`, recipes -> transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adapters_jax import trees
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.methods.base import decays
from adapters_jax.types import Tree

Schedule = Callable[[int], float]
SCHEDULES = ("linear", "constant")

apply_updates = optax.apply_updates
"""Adds updates to parameters; for full trees and for trees with holes (`trees.split`) alike."""


def freeze(tx: optax.GradientTransformation, labels: Tree) -> optax.GradientTransformation:
    """`tx` for the trained leaves, zero for the frozen ones.

    Clipping and weight decay belong inside `tx`: outside, they keep the frozen leaves' gradients alive (half as many
    FLOPs again), and decay moves frozen weights. All trained leaves are one branch, so that a global norm is one norm.

    Args:
        tx: the optimiser of the trained leaves.
        labels: `Model.labels(params)`.

    Returns:
        A transformation for full trees and for trees with holes alike; its state holds no frozen leaf.
    """
    branches = jax.tree.map(lambda label: "frozen" if label == "frozen" else "trained", labels)
    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, branches)


def make_optimizer(
    name: str,
    *,
    lr: float,
    total_steps: int,
    warmup: float,
    schedule: str,
    weight_decay: float,
    clip_norm: float,
    decays: Callable[[str], bool] = decays,
    branches: Tree | None = None,
    head_lr: float | None = None,
    around: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda tx: tx,
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimiser of the trained leaves, and its learning rate by step.

    Args:
        name: a key of `OPTIMIZERS`.
        lr: the peak rate.
        total_steps: of the run; the linear schedule reaches 0 there.
        warmup: the share of the steps in which the rate rises from 0.
        schedule: "linear" or "constant".
        weight_decay: decoupled.
        clip_norm: of the gradient over all trained leaves; 0 for none.
        decays: whether a leaf is decayed, by its path: `Method.decays`.
        branches: a tree of names, one for each leaf: leaves of unlike names have counts and moments of their own, under
            one norm and one learning rate.
        head_lr: the peak rate of leaves under head/; None: `lr`.
        around: wraps all of it but the clipping.

    Raises:
        ConfigError: an unknown optimiser or schedule.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(unknown("optimizer", name, OPTIMIZERS))
    if schedule not in SCHEDULES:
        raise ConfigError(unknown("schedule", schedule, SCHEDULES))
    rising = round(warmup * total_steps)
    ramp = Ramp(lr, rising, max(1, total_steps - rising), 0.0 if schedule == "linear" else lr)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    mask = lambda params: trees.map_paths(lambda path, _: decays(path), params)
    decay = optax.add_decayed_weights(weight_decay, mask=mask)
    ratio = 1.0 if head_lr is None else head_lr / lr
    moments: tuple[optax.GradientTransformation, ...] = (OPTIMIZERS[name](), decay)
    if branches is not None:
        each = dict.fromkeys(jax.tree.leaves(branches), optax.chain(*moments))
        moments = (optax.multi_transform(each, branches),)
    tx = around(optax.chain(*moments, _scale_by_ramp(ramp, ratio)))
    return optax.chain(clip, tx), lambda step: float(ramp.rate(step))


class Ramp(NamedTuple):
    """A learning rate that rises from 0 to `lr` in `rising` steps and goes to `end` in `falling` more."""

    lr: Any
    rising: Any
    falling: Any
    end: Any

    def rate(self, step: Any) -> jax.Array:
        """The rate of the update after `step` others."""
        up = self.lr * (step / jnp.maximum(self.rising, 1))
        down = self.lr + (self.end - self.lr) * jnp.clip((step - self.rising) / self.falling, 0.0, 1.0)
        return jnp.where(step < self.rising, up, down)


class RampState(NamedTuple):
    """Updates made so far, and the ramp itself: as data, one compiled step serves all rates and lengths of runs."""

    step: jax.Array
    ramp: Ramp


def _scale_by_ramp(ramp: Ramp, head: float = 1.0) -> optax.GradientTransformation:
    """Multiplies by minus the rate, and what lies under head/ also by `head`."""

    def init(params: Tree) -> RampState:
        return RampState(jnp.zeros((), jnp.int32), Ramp(*(jnp.asarray(value, jnp.float32) for value in ramp)))

    def update(updates: Tree, state: RampState, params: Tree | None = None) -> tuple[Tree, RampState]:
        rate = state.ramp.rate(state.step)
        scaled = jax.tree.map(lambda leaf: -rate.astype(leaf.dtype) * leaf, updates)
        if head != 1.0:
            scaled = trees.map_paths(lambda path, leaf: head * leaf if path.startswith("head/") else leaf, scaled)
        return scaled, state._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def _adamw() -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) with torch's and optax's constants."""
    return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def _adam_no_bias_correction() -> optax.GradientTransformation:
    """BERT's released optimiser (adapter-bert, optimization.py): its first steps are larger than AdamW's."""
    return _uncorrected_moments(b1=0.9, b2=0.999, eps=1e-6)


def _adafactor() -> optax.GradientTransformation:
    """As prompt tuning uses it (Lester et al., 2021): the rate is not scaled by the parameters.

    Second moments are factored over the two widest axes of a leaf, so layer by layer; the update's root mean square is
    clipped per stacked leaf, where a layer-by-layer implementation would clip each layer by itself. Weight decay is
    multiplied by the rate, as in the other optimisers; the release's is not.
    """
    return optax.chain(optax.scale_by_factored_rms(decay_rate=0.8), optax.clip_by_block_rms(1.0))


def _uncorrected_moments(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) with Adam's moving averages, without the correction for their start at 0."""

    def init(params: Tree) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: Tree, state: optax.ScaleByAdamState, params: Tree | None = None
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adam_no_bias_correction": _adam_no_bias_correction,
    "adafactor": _adafactor,
}
