"""AdaLoRA: low-rank changes whose ranks are chosen while they are trained (Zhang et al., 2023).

With x a dense layer's input, W [in out] and b its weights, r the rank that every change starts with:

    y = x W + b + s dropout(x) A diag(E) B        A [in r], E [r], B [r out]; s = alpha / (r + 1e-5), whatever is pruned

    adapters/encoder/3/query/a    [in r], from N(0, 0.02)
                            /e    [r], from 0: exactly the plain backbone at initialisation
                            /b    [r out], from N(0, 0.02)
             and the same under every other slot

A triplet i of a change is (column i of A, E_i, row i of B). Step t (counted from 0, in steps of the optimiser) ends so,
with p a leaf after its update and g its gradient, clipped, averages I and U from 0:

    I <- beta1 I + (1 - beta1) |p g|;  U <- beta2 U + (1 - beta2) | |p g| - I |       while t < T - tf
    score of a triplet = (I U)(E_i) + mean (I U)(A_i) + mean (I U)(B_i)
    budget b(t) = b0 while t <= ti;  bT + (b0 - bT) (1 - (t - ti) / (T - tf - ti))^3, rounded down;  bT from T - tf on
    every `interval` steps, and always once t > T - tf: E_i = 0 for the b0 - b(t) triplets of the lowest scores

T is the length of the run, b0 = r and bT = target_rank for each of the changed dense layers, ti and tf shares of T.
Shapes stay, so nothing is compiled anew; until the ranks are final, a gradient may bring a triplet back. Only steps
with final ranks can be kept as the best one. A term gamma mean ||A'A - 1||_F, over all A and B, keeps triplets apart.

Parameters, r (in + out + 1) for each dense layer: all six, rank 2, BERT-base 331,920, BERT-large 885,024.

Source: QingruZhang/AdaLoRA, loralib/adalora.py, and its scripts for GLUE on DeBERTaV3-base. Differences: ties are
broken by place, where the release prunes all that are equal, so that the budget is met exactly; target_rank = rank
prunes nothing, where the release crashes; ti and tf are shares of the run.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import across
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks, folding
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import PROJECT, Context, Modules
from adapters_jax.types import Array, Float, Tree

STD = 0.02
"""Of A and B at initialisation."""

NEAR_ZERO = 1e-5
"""What the release adds to the rank that it divides by."""


class Triplets(nn.Module):
    """dense(x) + scale dropout(x) A diag(E) B.

    Attributes:
        rank: r.
        scale: s.
        dropout: on the input of A, in training.
    """

    rank: int
    scale: float
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], dense: Any, ctx: Context) -> Float[Array, "b t o"]:
        y = dense(x)
        a = self.param("a", nn.initializers.normal(STD), (x.shape[-1], self.rank))
        e = self.param("e", nn.initializers.zeros, (self.rank,))
        b = self.param("b", nn.initializers.normal(STD), (self.rank, y.shape[-1]))
        seen = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
        low = seen @ a.astype(x.dtype)
        return y + (low * across(e, low)) @ b.astype(x.dtype) * self.scale


@dataclasses.dataclass(frozen=True)
class AdaLoRA(Method):
    """Zhang et al. (2023), https://arxiv.org/abs/2303.10512.

    Attributes:
        slots: the dense layers with a change: any of query, key, value, attn_out, ffn_in, ffn_out.
        rank: r, that each change starts with.
        target_rank: what is left at the end, on average over the changed dense layers.
        alpha: a change is multiplied by alpha / rank.
        start: the share of the run before the first pruning, ti / T.
        final: the share of the run in which the ranks are final, tf / T; two steps at least.
        interval: steps between two prunings.
        beta1, beta2: of the averages of sensitivity and uncertainty.
        orthogonality: gamma, the weight of the regulariser.
        dropout: on the input of A.
        layers: the layers with a change; all, if not given.
    """

    name: ClassVar[str] = "adalora"
    size: ClassVar[str | None] = "rank"
    slots: tuple[str, ...] = PROJECT
    rank: int = 3
    target_rank: int = 1
    alpha: float = 16.0
    start: float = 0.1
    final: float = 0.5
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checks.some_of("slots", self.slots, PROJECT)
        for field in ("rank", "target_rank", "interval"):
            checks.whole(field, getattr(self, field))
        if self.target_rank > self.rank:
            raise ConfigError(f"method.target_rank: expected at most the rank {self.rank}, got {self.target_rank}")
        checks.number("alpha", self.alpha, above=0.0)
        checks.number("orthogonality", self.orthogonality)
        for field in ("start", "final", "beta1", "beta2", "dropout"):
            checks.rate(field, getattr(self, field))
        if self.start + self.final >= 1:
            raise ConfigError(
                f"method.final: expected start and final to leave steps between them, got {self.start} and {self.final}"
            )

    def check(self, config: BertConfig) -> None:
        super().check(config)
        width = min(config.hidden_size, config.intermediate_size)
        if self.rank > width:
            raise ConfigError(f"method.rank: expected at most the backbone's width {width}, got {self.rank}")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=5e-4,
            epochs=7.0,
            batch_size=32,
            warmup=0.012,
            weight_decay=0.0,
            source="QingruZhang/AdaLoRA, NLU/scripts, MNLI on DeBERTaV3-base",
        )

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank + NEAR_ZERO)

    def modules(self, config: BertConfig, segment: int) -> Modules:
        if not self.lives_in(segment, config):
            return {}
        return dict.fromkeys(self.slots, Triplets(self.rank, self.scale, self.dropout))

    def penalty(self, adapters: Tree) -> Float[Array, ""]:
        return self.orthogonality * _apart(adapters)

    def measures(self, adapters: Tree) -> dict[str, Array]:
        ranks = [jnp.sum(own["e"] != 0) for own in _changes(adapters).values()]
        return {"orthogonality": _apart(adapters), "rank": sum(ranks, start=jnp.zeros((), jnp.int32))}

    def transform(
        self, tx: optax.GradientTransformation, total_steps: int, prefix: str = "adapters/"
    ) -> optax.GradientTransformation:
        return _allocating(tx, self, self.schedule(total_steps), prefix)

    def settled(self, total_steps: int) -> int:
        return total_steps - self.schedule(total_steps).last + 2

    def schedule(self, total_steps: int) -> "Schedule":
        """The schedule of a run's budget.

        Raises:
            ConfigError: a run too short to have one.
        """
        first, last = round(self.start * total_steps), max(2, round(self.final * total_steps))
        if first + last >= total_steps:
            raise ConfigError(
                f"steps: adalora needs steps between its start and its final share, {first} and {last} of "
                f"{total_steps}; train for longer"
            )
        return Schedule(total_steps, first, last)

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self._moved(backbone, adapters, 1)

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self._moved(backbone, adapters, -1)

    def _moved(self, backbone: Tree, adapters: Tree, sign: int) -> Tree:
        def change(slot: str, kind: str, leaf: jax.Array, own: Tree) -> Array:
            if kind != "kernel":
                return leaf
            # On TPUs a float32 product is otherwise one of bfloat16.
            low = own["a"] * own["e"][:, None, :]
            return leaf + sign * self.scale * jnp.matmul(low, own["b"], precision="highest")

        return folding.rewrite(backbone, adapters, change)


def _changes(tree: Tree, prefix: str = "") -> dict[str, Tree]:
    """Path -> {"a" [l in r], "e" [l r], "b" [l r out]}, of all changes at paths that begin with `prefix`."""
    flat = trees.flatten(tree)
    places = [path.removesuffix("/e") for path in flat if path.startswith(prefix) and path.endswith("/e")]
    return {place: {kind: flat[f"{place}/{kind}"] for kind in "aeb"} for place in places}


def _apart(adapters: Tree) -> Float[Array, ""]:
    """The mean of ||A'A - 1||_F and ||B B' - 1||_F over all changes: how far triplets are from orthonormal.

    0 where there are none, since the method is left out of every layer.
    """
    norms = []
    for own in _changes(adapters).values():
        for product in ("lir,lis->lrs", own["a"]), ("lro,lso->lrs", own["b"]):
            gram = jnp.einsum(product[0], product[1], product[1], precision="highest")
            norms.append(jnp.linalg.norm(gram - jnp.eye(gram.shape[-1], dtype=gram.dtype)[None], axis=(-2, -1)))
    return jnp.mean(jnp.concatenate(norms)) if norms else jnp.zeros(())


class Schedule(NamedTuple):
    """When the budget falls, in steps: of a run of `total`, from after the first `first` to before the last `last`."""

    total: Any
    first: Any
    last: Any

    def budget(self, step: Any, initial: int, target: int) -> jax.Array:
        """The triplets left after step `step`, counted from 0."""
        left = 1 - (step - self.first) / (self.total - self.last - self.first)
        falling = jnp.floor(target + (initial - target) * left**3).astype(jnp.int32)
        return jnp.where(step <= self.first, initial, jnp.where(step > self.total - self.last, target, falling))


class Allocation(NamedTuple):
    """What the allocator keeps: steps taken, its schedule as data, both averages by leaf, the optimiser's own state."""

    step: jax.Array
    schedule: Schedule
    sensitivity: Tree
    uncertainty: Tree
    inner: Any


def _allocating(
    tx: optax.GradientTransformation, method: AdaLoRA, schedule: Schedule, prefix: str
) -> optax.GradientTransformation:
    """`tx`, after which each step weighs the triplets under `prefix` and sets the least important ones to 0."""

    def own(tree: Tree) -> Tree:
        return trees.unflatten(
            {f"{place}/{kind}": leaf for place, each in _changes(tree, prefix).items() for kind, leaf in each.items()}
        )

    def init(params: Tree) -> Allocation:
        zeros = lambda: jax.tree.map(jnp.zeros_like, own(params))
        plan = Schedule(*(jnp.asarray(steps, jnp.int32) for steps in schedule))
        return Allocation(jnp.zeros((), jnp.int32), plan, zeros(), zeros(), tx.init(params))

    def update(gradients: Tree, state: Allocation, params: Tree | None = None) -> tuple[Tree, Allocation]:
        if params is None:
            raise ValueError("adalora weighs parameters: expected tx.update(gradients, state, params)")
        updates, inner = tx.update(gradients, state.inner, params)
        now, plan = state.step, state.schedule
        weighing = now < plan.total - plan.last
        mixed = lambda beta: lambda old, new: jnp.where(weighing, beta * old + (1 - beta) * new, old)
        seen = jax.tree.map(lambda p, u, g: jnp.abs((p + u) * g), own(params), own(updates), own(gradients))
        sensitivity = jax.tree.map(mixed(method.beta1), state.sensitivity, seen)
        spread = jax.tree.map(lambda new, mean: jnp.abs(new - mean), seen, sensitivity)
        uncertainty = jax.tree.map(mixed(method.beta2), state.uncertainty, spread)

        scores = _scores(jax.tree.map(jnp.multiply, sensitivity, uncertainty))
        pruning = (now > plan.first) & ((now > plan.total - plan.last) | (now % method.interval == 0))
        changes = sum(score.shape[0] for score in scores.values())
        target = method.target_rank * changes
        left = jnp.where(pruning, plan.budget(now, method.rank * changes, target), method.rank * changes)
        before = _changes(params, prefix)
        zeroed = {
            f"{place}/e": jnp.where(pruned, -before[place]["e"], trees.flatten(updates)[f"{place}/e"])
            for place, pruned in _lowest(scores, method.rank * changes - left).items()
        }
        updates = trees.map_paths(lambda path, leaf: zeroed.get(path, leaf), updates)
        return updates, Allocation(optax.safe_increment(now), plan, sensitivity, uncertainty, inner)

    return optax.GradientTransformation(init, update)


def _scores(weights: Tree) -> dict[str, Float[Array, "l r"]]:
    """Path of a change -> the importance of its triplets; a column of A and a row of B count as their mean."""
    return {place: own["e"] + own["a"].mean(-2) + own["b"].mean(-1) for place, own in _changes(weights).items()}


def _lowest(scores: Mapping[str, Array], count: Any) -> dict[str, Array]:
    """Path -> which triplets are among the `count` of the lowest scores, of equals the first."""
    if not scores:
        return {}
    flat = jnp.concatenate([score.ravel() for score in scores.values()])
    chosen = jnp.argsort(jnp.argsort(flat)) < count
    ends = list(itertools.accumulate(score.size for score in scores.values()))
    parts = jnp.split(chosen, ends[:-1])
    return {place: part.reshape(scores[place].shape) for place, part in zip(scores, parts, strict=True)}
