"""Methods as other libraries can say them: without what is around them."""

import dataclasses

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods import IA3, AdaLoRA, AdapterDrop, Compose, Frozen, Fusion, LoRA, Method, Prefix, Stack
from adapters_jax.methods.bottleneck import BottleneckMethod
from adapters_jax.methods.checks import in_layers


def plain(method: Method, config: BertConfig) -> Method:
    """The same function with the same leaves, without what only says how it is trained, or where it was left out of.

    `Frozen` is its method; `AdapterDrop` its method in the layers that carry it, where that can be said.
    """
    if isinstance(method, Frozen):
        return plain(method.of, config)
    if isinstance(method, AdapterDrop):
        return _dropped(plain(method.of, config), method, config)
    if isinstance(method, Compose | Stack | Fusion):
        return dataclasses.replace(method, parts=tuple(plain(part, config) for part in method.parts))
    return method


def _dropped(of: Method, around: AdapterDrop, config: BertConfig) -> Method:
    if isinstance(of, BottleneckMethod):
        sizes = tuple(width if layer >= around.drop else 0 for layer, width in enumerate(of.widths(config)))
        return dataclasses.replace(of, sizes=sizes, bottleneck=None, reduction_factor=None, layers=None)
    if isinstance(of, LoRA | AdaLoRA | IA3) or (isinstance(of, Prefix) and not of.bottleneck):
        kept = tuple(layer for layer in in_layers(of.layers, config) if layer >= around.drop)
        return dataclasses.replace(of, layers=kept if len(kept) < config.num_hidden_layers else None)
    return around
