"""What a method of tuning is: which modules stand in which slots, what is trained, and how, as published."""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import NotFoldable
from adapters_jax.methods import checks
from adapters_jax.slots import MERGE, PROJECT, Context, Modules
from adapters_jax.types import Array, Float, Hidden, Key, Tree


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a method is trained where nothing else is asked for.

    Attributes:
        optimizer: a key of `optim.OPTIMIZERS`.
        lr: the peak learning rate.
        epochs: passes over the training rows.
        batch_size: rows per optimiser step.
        warmup: the share of the steps in which the rate rises from 0.
        schedule: "linear" (down to 0 at the end) or "constant", after the warm-up.
        weight_decay: decoupled, on all trained leaves but biases and LayerNorms.
        clip_norm: the largest global norm of the trained leaves' gradient; 0 for no clipping.
        source: where these values come from.
    """

    lr: float
    epochs: float
    source: str
    optimizer: str = "adamw"
    batch_size: int = 32
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip_norm: float = 1.0


class Method(abc.ABC):
    """One published method: subclass as a final frozen dataclass whose fields are its hyper-parameters.

    `name` is what flags and manifests call it. All but `name`, `recipe` and `modules` have a default.
    """

    name: ClassVar[str]
    not_foldable: ClassVar[str] = "its modules stand between the layers' own"
    """Why not, where `fold` refuses."""
    vote: str = "mean"
    """How the answers of several `members` become one: one of `bert.heads.VOTES`."""
    layers: tuple[int, ...] | None = None
    """The layers that the method lives in; None: all. A field where it can be chosen."""
    size: ClassVar[str | None] = None
    """The field that sets how much is trained, which a comparison varies; None: nothing does."""

    @property
    def label(self) -> str:
        """What it is called as a part of another method."""
        return self.name

    @property
    @abc.abstractmethod
    def recipe(self) -> Recipe:
        """The published recipe."""

    @property
    def quantize(self) -> str | None:
        """How training jobs quantise the backbone where they are not told: one of `bert.quant.KINDS`; None: not."""
        return None

    @abc.abstractmethod
    def modules(self, config: BertConfig, segment: int) -> Modules:
        """Slot name -> Linen module, for the layers of the segment that begins at layer `segment`.

        Those of `embed` and `output` are taken from segment 0.
        """

    def check(self, config: BertConfig) -> None:
        """Refuses what does not fit a backbone: a layer it lacks, a rank above its width.

        Raises:
            ConfigError: naming the field.
        """
        self.segments(config)

    def prepare(self, tokenize: Callable[[str], list[int]], labels: Sequence[str]) -> "Method":
        """The method with what depends on the tokenizer or the task's label names filled in, before any leaf is made.

        Args:
            tokenize: text -> ids, without special tokens.
            labels: of the classes; () where the task has none.
        """
        return self

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        """First layers of the runs of layers that carry like modules."""
        return checks.segments(self.layers, config)

    def lives_in(self, segment: int, config: BertConfig) -> bool:
        """Whether the layers of the segment that begins at layer `segment` are among `layers`."""
        return segment in checks.in_layers(self.layers, config)

    def positions(self, config: BertConfig) -> int:
        """The position id of the first token; rows that `embed` adds in front of the words take those before it."""
        return 0

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        """The tree under `adapters/`: every module's own initial values, each layer by a key of its own."""
        borders = (*self.segments(config), config.num_hidden_layers)
        encoder = {}
        for start, stop in itertools.pairwise(borders):
            slots = {slot: m for slot, m in self.modules(config, start).items() if slot in LAYER_ARGUMENTS}
            layers = jnp.arange(start, stop)
            own = {slot: _initial_layers(key, slot, module, config, layers) for slot, module in slots.items()}
            encoder[str(start)] = {slot: tree for slot, tree in own.items() if tree}
        if len(encoder) == 1:
            encoder = encoder["0"]
        encoder = {run: tree for run, tree in encoder.items() if tree}
        outer = {slot: m for slot, m in self.modules(config, 0).items() if slot not in LAYER_ARGUMENTS}
        around = {slot: _initial(trees.fold_path(key, slot), slot, module, config) for slot, module in outer.items()}
        return ({"encoder": encoder} if encoder else {}) | {slot: tree for slot, tree in around.items() if tree}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        """What the slots receive: pure, once per forward pass, outside the layers."""
        return adapters

    def depth(self, key: Key, config: BertConfig) -> Array | None:
        """The first layer whose modules run in this step of training, drawn from its key; None: all of them do."""
        return None

    def decays(self, path: str) -> bool:
        """Whether weight decay applies to a trained leaf."""
        return decays(path)

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple["Method", Tree]:
        """The same function without what only training needs: a method whose leaves are those that `expand` gives."""
        return self, adapters

    @property
    def members(self) -> int:
        """How many times every row is run, each with its own slice of the adapters' leading axis; 1: there is none."""
        return 1

    def invert(self, adapters: Tree, x: Hidden) -> Hidden:
        """What masked-LM heads apply between their transform and the decoder, to undo what stands at the embeddings."""
        return x

    @property
    def inverts(self) -> bool:
        """Whether `invert` does anything: on x as wide as the model, and no other."""
        return False

    def penalty(self, adapters: Tree) -> Float[Array, ""]:
        """Added to the loss of the same step."""
        return jnp.zeros(())

    def measures(self, adapters: Tree) -> dict[str, Array]:
        """What a step of training logs besides its loss: name -> scalar, of the leaves after the step."""
        return {}

    def transform(
        self, tx: optax.GradientTransformation, total_steps: int, prefix: str = "adapters/"
    ) -> optax.GradientTransformation:
        """Wraps the optimiser of the trained leaves, between clipping and the parameters.

        Args:
            tx: takes clipped gradients of the whole tree of params.
            total_steps: of the run.
            prefix: of the paths of the method's own leaves.
        """
        return tx

    def settled(self, total_steps: int) -> int:
        """The first step of a run after which its result may be kept as the best one."""
        return 0

    def trainable(self, path: str, config: BertConfig) -> bool:
        """Whether a leaf under `adapters/` or `backbone/` is trained, by its layer-numbered path."""
        return path.startswith("adapters/")

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        """The backbone with the adapters folded into its weights: the same function without any module. Pure.

        Raises:
            NotFoldable: the method's change is no change of weights.
        """
        if adapters:
            raise NotFoldable(f"{self.name} cannot be folded into the backbone: {self.not_foldable}")
        return backbone

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        """The inverse of `fold`, up to rounding.

        Raises:
            NotFoldable: as `fold`, or what was folded cannot be told from the result.
        """
        return Method.fold(self, backbone, adapters)

    def to_dict(self) -> dict[str, Any]:
        """Name and hyper-parameters, for the manifest."""
        return {"name": self.name} | {f.name: _stored(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore

    def given(self) -> dict[str, Any]:
        """The same without what follows from the rest: for files in which people change a field or two."""
        return self.to_dict()


def _stored(value: Any) -> Any:
    """A field as the manifest keeps it: methods by their own dicts."""
    if isinstance(value, tuple):
        return [_stored(each) for each in value] if any(isinstance(each, Method) for each in value) else value
    return value.to_dict() if isinstance(value, Method) else value


def decays(path: str) -> bool:
    """Whether weight decay applies to a leaf: not to biases and LayerNorms (Devlin et al., 2019, the released code)."""
    *parents, last = path.split("/")
    return last != "bias" and not (parents and parents[-1].endswith("norm"))


def is_layer_norm(path: str) -> bool:
    """Whether a path is that of a LayerNorm of the backbone: `backbone/encoder/3/attn_norm/scale`."""
    parts = path.split("/")
    return parts[0] == "backbone" and parts[-2].endswith("norm")


class _Plain:
    """A stand-in for the backbone's dense layer while shapes are found."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._kernel, self.bias = jnp.zeros((inputs, outputs)), jnp.zeros(outputs)

    def kernel(self) -> Array:
        return self._kernel

    def __call__(self, x: Array) -> Array:
        return x @ self._kernel


def _project_arguments(slot: str, config: BertConfig) -> tuple:
    wide = config.intermediate_size
    inputs, outputs = {"ffn_in": (config.hidden_size, wide), "ffn_out": (wide, config.hidden_size)}.get(
        slot, (config.hidden_size, config.hidden_size)
    )
    return jnp.zeros((1, 1, inputs)), _Plain(inputs, outputs)


def _merge_arguments(slot: str, config: BertConfig) -> tuple:
    h = jnp.zeros((1, 1, config.hidden_size))
    return h, h, lambda x: x


def _key_value_arguments(slot: str, config: BertConfig) -> tuple:
    k = jnp.zeros((1, 1, config.num_attention_heads, config.head_width))
    return k, k, jnp.ones((1, 1), bool)


LAYER_ARGUMENTS = (
    dict.fromkeys(PROJECT, _project_arguments)
    | dict.fromkeys(MERGE, _merge_arguments)
    | {"key_value": _key_value_arguments}
)
"""Arguments by which a slot's module is initialised: one row of one token."""


def _initial(key: Key, slot: str, module: nn.Module, config: BertConfig, layer: Any = 0) -> Tree:
    h: Hidden = jnp.zeros((1, 1, config.hidden_size))
    ctx = Context(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), h, layer)
    if slot in LAYER_ARGUMENTS:
        arguments = LAYER_ARGUMENTS[slot](slot, config)
    else:
        arguments = (h, ctx.mask) if slot == "embed" else (h, (h,) * (config.num_hidden_layers + 1))
    return module.init({"params": key}, *arguments, ctx).get("params", {})


def _initial_layers(key: Key, slot: str, module: nn.Module, config: BertConfig, layers: Array) -> Tree:
    one = lambda number: _initial(trees.fold_path(key, "encoder", number, slot), slot, module, config, number)
    return jax.vmap(one)(layers)
