"""AdapterDrop: another method left out of the first layers, always or for a number of them drawn at each step.

Specialised: the first `drop` layers carry nothing, and have no leaves (a network that makes the prefixes of all layers
stays whole). Robust: each training step draws n from
0 ... L - 1 and leaves the first n layers out, so that any number of them may be left out afterwards.

Left out means that no work is done: the layers below run as in the plain backbone, outside of what is differentiated.
Since all tasks share them, they run once for many tasks (`serving.shared`).

The backbone's own leaves stay as they are, so methods that train some of them (LayerNorms, biases) are refused.

Source: Rücklé et al. (2021), https://arxiv.org/abs/2010.11918, section 3. The notebook of adapter-hub/adapters draws n
from 0 ... L - 2. Deviation: layers that a step leaves out have a gradient of zero in it, and the optimiser's moments go
on moving them; torch's optimisers pass over them.
"""

import dataclasses
from typing import ClassVar

import jax

from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks
from adapters_jax.methods.base import LAYER_ARGUMENTS, Method
from adapters_jax.methods.wrapper import Wrapper
from adapters_jax.slots import Modules
from adapters_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class AdapterDrop(Wrapper):
    """Rücklé et al. (2021), https://arxiv.org/abs/2010.11918.

    Attributes:
        of: the method; all that it has stands in layers.
        drop: the first so many layers carry nothing of it.
        robust: in training, also leave it out of a number of layers that is drawn at each step.
    """

    name: ClassVar[str] = "adapter_drop"
    drop: int = 0
    robust: bool = False

    def __post_init__(self) -> None:
        checks.whole("drop", self.drop, least=0)
        if isinstance(self.of, AdapterDrop):
            raise ConfigError(f"method.of: expected a method to leave out of layers, got {self.of}")

    def check(self, config: BertConfig) -> None:
        super().check(config)
        layers = config.num_hidden_layers
        if self.drop > layers:
            raise ConfigError(f"drop: expected at most the backbone's {layers} layers, got {self.drop}")
        refuse_changed(self.of, config)
        modules = {slot for start in self.of.segments(config) for slot in self.of.modules(config, start)}
        if outside := sorted(modules - LAYER_ARGUMENTS.keys()):
            raise ConfigError(f"drop: expected a method that lives in layers, {self.of.name} stands at {outside[0]}")
        if not modules:
            raise ConfigError(f"drop: expected a method that lives in layers, {self.of.name} has nothing to leave out")

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        own = {max(start, self.drop) for start in self.of.segments(config)}
        return tuple(sorted(start for start in {0, *own} if start < config.num_hidden_layers))

    def modules(self, config: BertConfig, segment: int) -> Modules:
        if segment < self.drop:
            return {}
        return self.of.modules(config, max(start for start in self.of.segments(config) if start <= segment))

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        return without_layers(self.of.initialise(key, config, backbone), self.drop, config)

    def depth(self, key: Key, config: BertConfig) -> Array | None:
        return jax.random.randint(key, (), self.drop, config.num_hidden_layers) if self.robust else None


def left_out(method: Method, adapters: Tree, drop: int, config: BertConfig) -> tuple[AdapterDrop, Tree]:
    """A trained method left out of the first `drop` layers, and what remains of its leaves.

    Raises:
        ConfigError: fewer layers than it was trained without, more than there are, or a method that cannot be left out.
    """
    already = drop_of(method)
    of = method
    while isinstance(of, Wrapper):
        of = of.of
    if drop < already:
        raise ConfigError(f"drop: expected at least {already}, without which the adapter was trained, got {drop}")
    dropped = AdapterDrop(of, drop)
    dropped.check(config)
    return dropped, without_layers(adapters, drop, config)


def drop_of(method: Method) -> int:
    """The layers that a method was left out of, whatever is around it."""
    if isinstance(method, AdapterDrop):
        return method.drop
    return drop_of(method.of) if isinstance(method, Wrapper) else 0


def without_layers(adapters: Tree, drop: int, config: BertConfig) -> Tree:
    """A tree under adapters/ without the leaves of the first `drop` layers, at any depth of it."""
    if not drop:
        return adapters
    cut: Tree = {}
    for name, tree in adapters.items():
        if name != trees.STACKED:
            cut[name] = without_layers(tree, drop, config) if isinstance(tree, dict) else tree
            continue
        layers = config.num_hidden_layers
        starts = {max(start, drop): stop for start, stop, _ in trees.runs(tree, layers) if stop > drop}
        kept = {str(start): trees.cut(tree, layers, start, stop) for start, stop in starts.items()}
        cut |= {name: kept} if kept else {}
    return cut


def refuse_changed(method: Method, config: BertConfig) -> None:
    """Refuses a method that trains leaves of the backbone: several methods or none share these.

    Raises:
        ConfigError: naming the leaves and the flag.
    """
    paths = [f"backbone/{row.path}" for row in weights.numbered(config, pooler=True)]
    changed = [path for path in paths if method.trainable(path, config)]
    if changed:
        fix = "; train it with --method.layer-norms=false" if hasattr(method, "layer_norms") else ""
        more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
        raise ConfigError(
            f"{method.name} changes leaves of the backbone, which must stay as they are here: "
            f"{', '.join(changed[:2])}{more}{fix}"
        )
