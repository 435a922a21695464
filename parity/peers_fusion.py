"""Vectors of AdapterFusion in `adapters`: two bottleneck adapters, frozen, and the attention over them.

The loss is the cross entropy and the regulariser together, as one step of training has it; the Trainer of `adapters`
back-propagates the regulariser after the step, so that it acts in the next. Beside the rest, fusion/attention/LAYER is
the attention of the first batch.
"""

import re
from collections.abc import Callable, Iterator

import adapters
import numpy as np
import torch
from adapters.composition import Fuse

from parity import peers
from parity.oracle import inputs
from parity.peers_bottleneck import path_of, view
from parity.torch_bert import Leaf, bert, vectors

CASE = "adapters-fusion"
FUSION = r"encoder\.layer\.(\d+)\.output\.adapter_fusion_layer\.a,b\.(query|key|value)\.(weight|bias)"


def leaf_of(name: str, tensor: torch.Tensor) -> tuple[str, Leaf] | None:
    """(path, leaf) of a tensor of `adapters`; None for the backbone's."""
    if match := re.fullmatch(FUSION, name):
        layer, which, kind = match.groups()
        path = f"adapters/fusion/encoder/{layer}/ffn_merge/{which}/{'kernel' if kind == 'weight' else 'bias'}"
        return path, (tensor, view(path))
    if match := re.fullmatch(r"(.+\.adapters)\.([ab])\.(.+)", name):
        path = path_of(f"{match[1]}.a.{match[3]}", "")
        if path is not None:
            path = path.replace("adapters/", f"adapters/{match[2]}/", 1)
            return path, (tensor, view(path))
    return None


def fusion() -> Iterator[tuple[str, np.ndarray]]:
    model = bert()
    adapters.init(model)
    for name in ("a", "b"):
        model.add_adapter(name, config=adapters.SeqBnConfig(reduction_factor=8))
    model.add_adapter_fusion(Fuse("a", "b"))
    model.train_adapter_fusion(Fuse("a", "b"))
    found = [leaf_of(name, tensor) for name, tensor in model.named_parameters()]
    leaves = dict(leaf for leaf in found if leaf is not None)
    own = {path: leaf for path, leaf in leaves.items() if path.startswith("adapters/fusion/")}
    rest = {path: leaf for path, leaf in leaves.items() if path not in own}
    yield from vectors(model.eval(), own, frozen=rest, penalty=model.get_fusion_regularization_loss)
    answer = model(**inputs(peers.batches()[0]), output_adapter_fusion_attentions=True)
    for layer, places in answer.adapter_fusion_attentions["a,b"].items():
        yield f"attention/{layer}", np.asarray(places["output_adapter"])


CASES: dict[str, Callable[[], Iterator[tuple[str, np.ndarray]]]] = {CASE: fusion}
