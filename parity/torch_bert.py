"""The small BERT of parity.peers in torch, and the vectors of a method on it; all in torch's default dtype."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from parity import peers, recipe
from parity.oracle import array, inputs

Leaf = tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]
"""A tensor of the model, and the view of it, or of its gradient, that has our layout."""


def bert() -> BertModel:
    """transformers' BertModel without dropout, with the recipe's weights."""
    model = BertModel(BertConfig(**peers.CONFIG, attn_implementation="eager"))
    with torch.no_grad():
        for released, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(recipe.backbone_tensor(released, tuple(tensor.shape))))
    return model.eval()


def vectors(
    model: Callable[..., Any],
    leaves: Mapping[str, Leaf],
    full_rows: bool = False,
    frozen: Mapping[str, Leaf] = MappingProxyType({}),
    penalty: Callable[[], torch.Tensor] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Logits, loss and gradients (parity.peers) of a model with a head on its pooled output.

    Args:
        model: called as transformers' BertModel is, in evaluation.
        leaves: path -> leaf, for every trained one but the head's. Those under adapters/ are given their values here.
        full_rows: on batches without padding.
        frozen: leaves under adapters/ that get their values here too, but are not trained.
        penalty: added to the loss.
    """
    kernel, bias = torch.empty(peers.CONFIG["hidden_size"], recipe.LABELS), torch.empty(recipe.LABELS)
    plain = lambda tensor: tensor
    trained = {**leaves, "head/classifier/kernel": (kernel, plain), "head/classifier/bias": (bias, plain)}
    with torch.no_grad():
        for path, (tensor, view) in {**trained, **frozen}.items():
            if not path.startswith("backbone/"):
                ours = view(tensor)
                ours.copy_(torch.from_numpy(peers.value(path, tuple(ours.shape))))
    for tensor, _ in trained.values():
        tensor.requires_grad_()
    for number, batch in enumerate(peers.batches(full_rows)):
        logits = model(**inputs(batch)).pooler_output @ kernel + bias
        yield f"{number}/logits", array(logits)
        if number == 0:
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch["labels"]).long())
            loss = loss if penalty is None else loss + penalty()
            yield "loss", array(loss)
            gradients = torch.autograd.grad(loss, [tensor for tensor, _ in trained.values()])
            for (path, (_, view)), gradient in zip(trained.items(), gradients, strict=True):
                yield f"gradient/{path}", array(view(gradient))
    yield from step({path: view(tensor) for path, (tensor, view) in trained.items()})


def step(leaves: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves after one AdamW step fed the recipe's gradients, clipped by their global norm.

    Biases, LayerNorms and a fusion's values do not decay.
    """
    own = {path: torch.nn.Parameter(leaf.detach().clone()) for path, leaf in leaves.items()}
    free = lambda path: path.endswith("/bias") or "norm/" in path or ("/fusion/" in path and "/value/" in path)
    groups = [
        {
            "params": [leaf for path, leaf in own.items() if not free(path)],
            "weight_decay": recipe.OPTIMIZER["weight_decay"],
        },
        {"params": [leaf for path, leaf in own.items() if free(path)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=recipe.OPTIMIZER["lr"], betas=tuple(recipe.MOMENTS.values()), eps=recipe.ADAMW_EPS
    )
    for path, leaf in own.items():
        fed = np.asarray(recipe.fed_gradient(path, 0, tuple(leaf.shape)))
        leaf.grad = torch.from_numpy(fed).to(leaf.dtype)
    torch.nn.utils.clip_grad_norm_(list(own.values()), recipe.OPTIMIZER["clip_norm"])
    optimizer.step()
    for path, leaf in own.items():
        yield f"step/{path}", array(leaf)
