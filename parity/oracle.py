"""Writes the golden vectors with torch and transformers: `python -m parity.oracle --out FOLDER`.

One file per backbone, with: hidden states and pooled output of transformers' BertModel; logits and gradients of a
Houlsby adapter, transcribed here from the released code (adapter-bert, modeling.py) and independent of the package;
gradients of full fine-tuning; AdamW steps fed given gradients; and the hidden states of `adapters` with the same
adapter weights. Stored vectors are made in float64 (`--dtype=float64`), live ones in float32 (`--whole`).
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from parity import recipe

EAGER = dict(attn_implementation="eager")


def bert(name: str) -> BertModel:
    """transformers' BertModel of a case, without dropout; a missing pooler comes from the recipe."""
    place = recipe.case(name).folder
    if place is None:
        model = BertModel(BertConfig(**recipe.BASE, **EAGER))
        random = list(model.named_parameters())
    else:
        model = BertModel.from_pretrained(place, add_pooling_layer=True, **EAGER)
        random = [tensor for tensor in model.named_parameters() if name == "mlm" and tensor[0].startswith("pooler")]
    with torch.no_grad():
        for released, tensor in random:
            tensor.copy_(torch.from_numpy(recipe.backbone_tensor(released, tuple(tensor.shape))))
    return model.eval()


def inputs(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """transformers' argument names."""
    tensors = {name: torch.from_numpy(value).long() for name, value in batch.items() if name != "labels"}
    return {"attention_mask": tensors.pop("mask"), **tensors}


class Houlsby(nn.Module):
    """adapter-bert on transformers' modules: LN(residual + A(dense(.))), A(y) = up(gelu(down(y))) + y, tanh gelu."""

    def __init__(self, model: BertModel, bottleneck: int):
        super().__init__()
        self.bert = model
        config = model.config
        tensors = recipe.adapter_tensors(config.num_hidden_layers, config.hidden_size, bottleneck)
        self.added = {path: torch.from_numpy(value).to(model.dtype) for path, value in tensors.items()}
        for value in self.added.values():
            value.requires_grad_()

    def adapter(self, place: str, y: torch.Tensor) -> torch.Tensor:
        kernel, bias = (
            (lambda part: self.added[f"{place}/{part}/kernel"]),
            (lambda part: self.added[f"{place}/{part}/bias"]),
        )
        inner = nn.functional.gelu(y @ kernel("down") + bias("down"), approximate="tanh")
        return inner @ kernel("up") + bias("up") + y

    def forward(self, input_ids, token_type_ids, attention_mask):
        h = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        bias = torch.where(attention_mask[:, None, None, :] == 1, 0.0, float("-inf")).to(h.dtype)
        for number, layer in enumerate(self.bert.encoder.layer):
            place = f"adapters/encoder/{number}"
            attended = layer.attention.self(h, attention_mask=bias)[0]
            out = layer.attention.output
            h = out.LayerNorm(h + self.adapter(f"{place}/attn_merge", out.dense(attended)))
            y = layer.output.dense(layer.intermediate(h))
            h = layer.output.LayerNorm(h + self.adapter(f"{place}/ffn_merge", y))
        return h, self.logits(h)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        return self.bert.pooler(h) @ self.added["head/classifier/kernel"] + self.added["head/classifier/bias"]

    def trained(self, method: str) -> dict[str, tuple[torch.Tensor, bool]]:
        """Path -> (tensor, whether the path holds its transpose): adapters, LayerNorms, head; or all but adapters."""
        leaves = {}
        for released, tensor in self.bert.named_parameters():
            if method == "full" or "LayerNorm" in released:
                path = recipe.path_of(released)
                leaves[path] = (tensor, path.endswith("/kernel"))
        added = {p: (t, False) for p, t in self.added.items() if method == "houlsby" or p.startswith("head/")}
        return leaves | added


def array(tensor: torch.Tensor, transposed: bool = False) -> np.ndarray:
    """A copy: optimisers change tensors in place."""
    return np.array((tensor.T if transposed else tensor).detach())


def plain_vectors(model: BertModel, batches: list[dict[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Hidden states at the tokens (no padding), and the pooled output."""
    for number, batch in enumerate(batches):
        with torch.no_grad():
            output = model(**inputs(batch), output_hidden_states=True)
        for layer, hidden in enumerate(output.hidden_states):
            yield f"bert/{number}/hidden/{layer}", array(hidden)[batch["mask"] == 1]
        yield f"bert/{number}/pooled", array(output.pooler_output)


def loss_of(model: Houlsby, method: str, batch: dict[str, np.ndarray]) -> torch.Tensor:
    if method == "houlsby":
        logits = model(**inputs(batch))[1]
    else:
        logits = model.logits(model.bert(**inputs(batch)).last_hidden_state)
    return nn.functional.cross_entropy(logits, torch.from_numpy(batch["labels"]).long())


def gradient_vectors(model: Houlsby, method: str, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    leaves = model.trained(method)
    loss = loss_of(model, method, batch)
    yield f"{method}/loss", array(loss)
    gradients = torch.autograd.grad(loss, [tensor for tensor, _ in leaves.values()])
    for (path, (_, transposed)), gradient in zip(leaves.items(), gradients, strict=True):
        yield f"{method}/gradient/{path}", array(gradient, transposed)


class BertAdam(torch.optim.Optimizer):
    """BERT's released optimiser, transcribed (adapter-bert, optimization.py): no bias correction, decoupled decay."""

    def step(self) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                state = self.state[tensor]
                m, v = state.get("m", torch.zeros_like(tensor)), state.get("v", torch.zeros_like(tensor))
                state["m"] = group["betas"][0] * m + (1 - group["betas"][0]) * tensor.grad
                state["v"] = group["betas"][1] * v + (1 - group["betas"][1]) * tensor.grad**2
                update = state["m"] / (state["v"].sqrt() + group["eps"]) + group["weight_decay"] * tensor.detach()
                tensor.data -= group["lr"] * update


def optimizer_vectors(model: Houlsby, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Trained leaves after one step and after more, fed the recipe's gradients, clipped by their global norm."""
    leaves = {path: nn.Parameter(tensor.detach().clone()) for path, (tensor, _) in model.trained("houlsby").items()}
    free = [tensor for path, tensor in leaves.items() if path.endswith(("/bias", "/scale"))]
    decayed = [tensor for path, tensor in leaves.items() if not path.endswith(("/bias", "/scale"))]
    decay = recipe.OPTIMIZER["weight_decay"]
    groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed, "weight_decay": decay}]
    settings = {"lr": recipe.OPTIMIZER["lr"], "betas": tuple(recipe.MOMENTS.values())}
    optimizer = (
        torch.optim.AdamW(groups, eps=recipe.ADAMW_EPS, **settings)
        if name == "adamw"
        else BertAdam(groups, settings | {"eps": recipe.BERT_ADAM_EPS})
    )
    for number in range(recipe.STEPS):
        for path, tensor in leaves.items():
            tensor.grad = torch.from_numpy(recipe.fed_gradient(path, number, tuple(tensor.shape))).to(tensor.dtype)
        nn.utils.clip_grad_norm_(list(leaves.values()), recipe.OPTIMIZER["clip_norm"])
        optimizer.step()
        if number in (0, recipe.STEPS - 1):
            for path, tensor in leaves.items():
                yield f"{name}/{number}/{path}", array(tensor)


def adapters_vectors(model: Houlsby, bottleneck: int, batches: list[dict]) -> Iterator[tuple[str, np.ndarray]]:
    """Last hidden states of `adapters` with the same weights copied in; changes the model in place, so it is last."""
    import adapters
    from adapters import DoubleSeqBnConfig

    bert_model = model.bert
    adapters.init(bert_model)
    factor = bert_model.config.hidden_size / bottleneck
    bert_model.add_adapter("a", config=DoubleSeqBnConfig(non_linearity="gelu_new", reduction_factor=factor))
    bert_model.set_active_adapters("a")
    bert_model.to(next(bert_model.embeddings.parameters()).dtype).eval()
    copied = 0
    with torch.no_grad():
        for name, tensor in bert_model.named_parameters():
            if ".adapters.a." not in name:
                continue
            layer = int(name.split("encoder.layer.")[1].split(".")[0])
            slot = "attn_merge" if "attention_adapters" in name or ".attention.output." in name else "ffn_merge"
            part = "down" if "adapter_down" in name else "up"
            kind = "kernel" if name.endswith("weight") else "bias"
            value = model.added[f"adapters/encoder/{layer}/{slot}/{part}/{kind}"]
            tensor.copy_(value.T if kind == "kernel" else value)
            copied += 1
        if copied != 8 * bert_model.config.num_hidden_layers:
            raise RuntimeError(f"adapters: expected 8 tensors in each layer, copied {copied}")
        for number, batch in enumerate(batches):
            hidden = bert_model(**inputs(batch)).last_hidden_state
            yield f"adapters/{number}/hidden", array(hidden)[batch["mask"] == 1]


def vectors(name: str, dtype: torch.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """All named arrays of one case."""
    model = bert(name).to(dtype)
    batches = recipe.batches(model.config.vocab_size)
    yield from plain_vectors(model, batches)
    houlsby = Houlsby(model, recipe.case(name).bottleneck)
    for number, batch in enumerate(batches):
        with torch.no_grad():
            hidden, logits = houlsby(**inputs(batch))
        yield f"houlsby/{number}/hidden", array(hidden)[batch["mask"] == 1]
        yield f"houlsby/{number}/logits", array(logits)
    yield from gradient_vectors(houlsby, "houlsby", batches[0])
    yield from gradient_vectors(houlsby, "full", batches[0])
    yield from optimizer_vectors(houlsby, "adamw")
    yield from optimizer_vectors(houlsby, "adam_no_bias_correction")
    yield from adapters_vectors(houlsby, recipe.case(name).bottleneck, batches)
    if name == "mlm":
        from parity import masked_lm  # here, since it takes what stands above

        yield from masked_lm.vectors(name, dtype, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--whole", action="store_true", help="store whole arrays beside their sketches")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    for name in recipe.CASES:
        kept: dict[str, np.ndarray] = {}
        for key, value in vectors(name, getattr(torch, args.dtype)):
            kept |= recipe.record(key, value, args.whole)
        recipe.save(args.out / f"{name}.npz", kept)
        print(f"{name}: {len(kept)} arrays, {(args.out / f'{name}.npz').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
