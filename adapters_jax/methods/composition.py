"""Several methods at once: `compose(Prefix(), LoRA())`.

Each part keeps its own tree, so that it can be taken out again, exchanged and folded as it is by itself:

    adapters/PART/...      PART: the method's name, with _2, _3, ... where it occurs again

and is trained as its own labels say. Where parts meet in one slot:

    attn_merge, ffn_merge   h = LayerNorm(r + y + sum of the parts' deltas of the same y); a part that offers no delta
                            (`lin`) comes last, and there can be but one
    query ... ffn_out       they nest: each gets the previous one as its `dense`, so two LoRAs give W + dW1 + dW2
    key_value               one after the other: prefixes stand in front of prefixes
    embed                   one after the other, at the same place
    output                  one part alone

`compose` takes the first part's recipe. What cannot be combined is refused, with the reason.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import optax
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError
from adapters_jax.methods.base import LAYER_ARGUMENTS, Method, Recipe
from adapters_jax.slots import MERGE, PROJECT, Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Mask, Tree

MOST = 16
"""Parts of one composition."""

Named = tuple[tuple[str, nn.Module], ...]


def adds(module: nn.Module) -> bool:
    """Whether a merge module only adds something to y, which it offers by itself as `delta`."""
    return getattr(module, "additive", False)


class Joint(nn.Module):
    """Modules of several parts in one slot, each with its leaves under its part's name."""

    parts: Named

    def children(self) -> list[nn.Module]:
        return [module.copy(name=name) for name, module in self.parts]


class JointProject(Joint):
    """Each part's projection around the one before."""

    @nn.compact
    def __call__(self, x: Array, dense: Callable[[Array], Array], ctx: Context) -> Array:
        for module in self.children():
            dense = _Around(module, dense, ctx)
        return dense(x)


@dataclasses.dataclass(frozen=True)
class _Around:
    """A dense layer with a part around it, as the next part sees it."""

    module: nn.Module
    inner: Any
    ctx: Context

    def __call__(self, x: Array) -> Array:
        return self.module(x, self.inner, self.ctx)


class JointMerge(Joint):
    """norm(residual + y + sum of deltas), or the part without a delta on that y."""

    @nn.compact
    def __call__(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        children = self.children()
        deltas = [module.delta(y, residual, norm, ctx) for module in children if adds(module)]
        y = sum(deltas, y)
        last = [module for module in children if not adds(module)]
        return last[0](y, residual, norm, ctx) if last else norm(residual + y)


class JointKeyValue(Joint):
    """One after the other."""

    @nn.compact
    def __call__(self, k: Array, v: Array, mask: Mask, ctx: Context) -> tuple[Array, Array, Array]:
        for module in self.children():
            k, v, mask = module(k, v, mask, ctx)
        return k, v, mask


class JointEmbed(Joint):
    """One after the other, at one place."""

    place: str = "encoder"

    @nn.compact
    def __call__(self, x: Hidden, mask: Mask, ctx: Context) -> tuple[Array, Array]:
        for module in self.children():
            x, mask = module(x, mask, ctx)
        return x, mask


class JointOutput(Joint):
    """One part's output."""

    @nn.compact
    def __call__(self, h: Hidden, hidden_states: tuple[Hidden, ...], ctx: Context) -> Hidden:
        (module,) = self.children()
        return module(h, hidden_states, ctx)


JOINTS: dict[str, type[Joint]] = (
    dict.fromkeys(PROJECT, JointProject)
    | dict.fromkeys(MERGE, JointMerge)
    | {"key_value": JointKeyValue, "embed": JointEmbed, "output": JointOutput}
)


class Composed(Method, abc.ABC):
    """What methods made of parts share; `components` names them, `joints` says how they meet in each slot."""

    joints: ClassVar[Mapping[str, type[Joint]]] = JOINTS

    @abc.abstractmethod
    def components(self) -> Sequence[Method]:
        """The parts, in order."""

    @abc.abstractmethod
    def of_flat(self, parts: tuple[Method, ...]) -> "Composed":
        """The same composition of its flattened parts."""

    @property
    def by_name(self) -> dict[str, Method]:
        """Part's name -> the part."""
        found: dict[str, Method] = {}
        times: dict[str, int] = {}
        for part in self.components():
            times[part.label] = times.get(part.label, 0) + 1
            found[part.label if times[part.label] == 1 else f"{part.label}_{times[part.label]}"] = part
        return found

    @property
    def quantize(self) -> str | None:
        return next((part.quantize for part in self.components() if part.quantize), None)

    def check(self, config: BertConfig) -> None:
        for part in self.components():
            part.check(config)
            if part.members > 1:
                raise ConfigError(f"compose: {part.name} runs every row {part.members} times: it stands alone")
            if getattr(part, "robust", False):
                raise ConfigError(f"compose: {part.name} draws a depth for all: expected it around the composition")
        for start in self.segments(config):
            for slot, named in self._by_slot(config, start).items():
                self._refuse(slot, dict(named))

    def _refuse(self, slot: str, named: Mapping[str, nn.Module]) -> None:
        whole = [name for name, module in named.items() if slot in MERGE and not adds(module)]
        if len(whole) > 1:
            raise ConfigError(
                f"compose: {' and '.join(whole)} both replace the whole of {slot}: expected one such part"
            )
        if slot == "output" and len(named) > 1:
            raise ConfigError(f"compose: {' and '.join(named)} both stand in the slot output: expected one such part")
        late = [name for name, module in list(named.items())[1:] if getattr(module, "reads_weights", False)]
        if late:
            raise ConfigError(
                f"compose: {late[0]} reads the layer's own weights at {slot}: expected it as the first part there, got "
                f"{', '.join(named)}"
            )
        places = {getattr(module, "place", None) for module in named.values()}
        if slot == "embed" and len(places) > 1:
            raise ConfigError(f"compose: {' and '.join(named)} stand at different places of the embeddings: {places}")

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        return tuple(sorted({start for part in self.components() for start in part.segments(config)}))

    def _by_slot(self, config: BertConfig, segment: int) -> dict[str, Named]:
        slots: dict[str, Named] = {}
        for name, part in self.by_name.items():
            own = max(start for start in part.segments(config) if start <= segment)
            for slot, module in part.modules(config, own).items():
                slots[slot] = (*slots.get(slot, ()), (name, module))
        return slots

    def modules(self, config: BertConfig, segment: int) -> Modules:
        found: dict[str, nn.Module] = {}
        for slot, named in self._by_slot(config, segment).items():
            place = {"place": named[0][1].place} if slot == "embed" else {}
            found[slot] = self.joints[slot](named, **place)
        return found

    def positions(self, config: BertConfig) -> int:
        return sum(part.positions(config) for part in self.components())

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        made = {
            name: part.initialise(trees.fold_path(key, name), config, backbone) for name, part in self.by_name.items()
        }
        return {name: tree for name, tree in made.items() if tree}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        """The parts' trees by slot: {"encoder": {run: {slot: {part: ...}}}, "embed": {part: ...}}."""
        layers = config.num_hidden_layers
        trees_of = {
            name: part.expand(adapters.get(name, {}), None if key is None else trees.fold_path(key, name), config)
            for name, part in self.by_name.items()
        }
        # A part whose first layers were left out begins where its leaves do.
        found = {start for tree in trees_of.values() for start, _, _ in trees.runs(tree.get("encoder", {}), layers)}
        starts = sorted(found | set(self.segments(config)))
        runs: dict[str, Tree] = {str(start): {} for start in starts}
        outer: Tree = {}
        for name, tree in trees_of.items():
            for start, stop in zip(starts, (*starts[1:], layers), strict=True):
                for slot, leaves in trees.cut(tree.get("encoder", {}), layers, start, stop).items():
                    runs[str(start)].setdefault(slot, {})[name] = leaves
            for slot, leaves in tree.items():
                if slot in JOINTS and slot not in LAYER_ARGUMENTS:
                    outer.setdefault(slot, {})[name] = leaves
        if len(starts) == 1:
            return {"encoder": runs["0"]} | outer
        return {"encoder": {start: run for start, run in runs.items() if run}} | outer

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple[Method, Tree]:
        flat = [part.flattened(adapters.get(name, {}), config) for name, part in self.by_name.items()]
        whole = self.of_flat(tuple(part for part, _ in flat))
        named = zip(whole.by_name, flat, strict=True)
        return whole, {name: tree for name, (_, tree) in named if tree}

    def invert(self, adapters: Tree, x: Hidden) -> Hidden:
        for name, part in reversed(self.by_name.items()):
            x = part.invert(adapters.get(name, {}), x)
        return x

    @property
    def inverts(self) -> bool:
        return any(part.inverts for part in self.components())

    def penalty(self, adapters: Tree) -> Float[Array, ""]:
        return sum(
            (part.penalty(adapters.get(name, {})) for name, part in self.by_name.items()), super().penalty(adapters)
        )

    def measures(self, adapters: Tree) -> dict[str, Array]:
        return {
            f"{name}/{measure}": value
            for name, part in self.by_name.items()
            for measure, value in part.measures(adapters.get(name, {})).items()
        }

    def transform(
        self, tx: optax.GradientTransformation, total_steps: int, prefix: str = "adapters/"
    ) -> optax.GradientTransformation:
        for name, part in self.by_name.items():
            tx = part.transform(tx, total_steps, f"{prefix}{name}/")
        return tx

    def settled(self, total_steps: int) -> int:
        return max(part.settled(total_steps) for part in self.components())

    def decays(self, path: str) -> bool:
        if not path.startswith("adapters/"):
            return super().decays(path)
        _, name, rest = path.split("/", 2)
        return self.by_name[name].decays(f"adapters/{rest}")

    def trainable(self, path: str, config: BertConfig) -> bool:
        if not path.startswith("adapters/"):
            return any(part.trainable(path, config) for part in self.components())
        _, name, rest = path.split("/", 2)
        return self.by_name[name].trainable(f"adapters/{rest}", config)

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        for name, part in self.by_name.items():
            backbone = part.fold(backbone, adapters.get(name, {}))
        return backbone

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        for name, part in reversed(self.by_name.items()):
            backbone = part.unfold(backbone, adapters.get(name, {}))
        return backbone


@dataclasses.dataclass(frozen=True)
class Compose(Composed):
    """Any methods together.

    Attributes:
        parts: the methods, in order; on the command line `--method.parts=prefix:length=10,lora:slots=query+value`.
    """

    name: ClassVar[str] = "compose"
    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        spliced = [part.parts if isinstance(part, Compose) else (part,) for part in self.parts]
        object.__setattr__(self, "parts", tuple(itertools.chain.from_iterable(spliced)))
        if not 1 <= len(self.parts) <= MOST:
            raise ConfigError(f"method.parts: expected 1 to {MOST} methods, such as prefix,lora, got {len(self.parts)}")
        alone = [part.name for part in self.parts if isinstance(part, Composed)]
        if alone:
            raise ConfigError(f"method.parts: {alone[0]} is a composition itself: expected its parts in its place")

    @property
    def recipe(self) -> Recipe:
        first = self.parts[0]
        return dataclasses.replace(first.recipe, source=f"{first.name}'s, as the first part: {first.recipe.source}")

    def components(self) -> Sequence[Method]:
        return self.parts

    def of_flat(self, parts: tuple[Method, ...]) -> "Compose":
        return Compose(parts)

    def prepare(self, tokenize: Callable[[str], list[int]], labels: Sequence[str]) -> "Compose":
        return Compose(tuple(part.prepare(tokenize, labels) for part in self.parts))

    def given(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.given() for part in self.parts]}


def compose(*parts: Method) -> Compose:
    """The method made of these.

    >>> compose(Prefix(length=10), LoRA())
    """
    return Compose(tuple(parts))
