"""Logits of a masked language model with its released head: transformers' BertForMaskedLM, and the same with the
Pfeiffer and NICE adapters of `adapters` (values: parity.peers), whose inverse stands before the decoder."""

from collections.abc import Iterator

import adapters
import numpy as np
import torch
from transformers import BertForMaskedLM

from parity import peers, recipe
from parity.oracle import EAGER, array, inputs
from parity.peers_bottleneck import path_of, view


def vectors(name: str, dtype: torch.dtype, batches: list[dict[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """masked_lm/N and masked_lm_nice/N: logits at the tokens (no padding) of batch N."""
    model = BertForMaskedLM.from_pretrained(recipe.case(name).folder, **EAGER).to(dtype).eval()
    yield from _logits("masked_lm", model, batches)
    adapters.init(model)
    model.add_adapter("a", config=adapters.SeqBnInvConfig(reduction_factor=16))
    model.set_active_adapters("a")
    # Only its flexible heads call the inverse (heads/language_modeling.py); a head that was released gets it so.
    undo = lambda module, args: (model.bert.get_invertible_adapter()(args[0], rev=True),)
    model.get_output_embeddings().register_forward_pre_hook(undo)
    added = 0
    with torch.no_grad():
        for released, tensor in model.to(dtype).eval().named_parameters():
            path = path_of(released.removeprefix("bert."), "")
            if path is not None and path.startswith("adapters/"):
                ours = view(path)(tensor)
                ours.copy_(torch.from_numpy(peers.value(path, tuple(ours.shape))))
                added += 1
    if added != 4 * model.config.num_hidden_layers + 8:
        raise RuntimeError(f"adapters: expected 4 tensors in each layer and 8 of the couplings, copied {added}")
    yield from _logits("masked_lm_nice", model, batches)


def _logits(prefix: str, model: torch.nn.Module, batches: list[dict[str, np.ndarray]]) -> Iterator[tuple]:
    for number, batch in enumerate(batches):
        with torch.no_grad():
            yield f"{prefix}/{number}", array(model(**inputs(batch)).logits)[batch["mask"] == 1]
