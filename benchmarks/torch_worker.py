"""`adapters` on torch, driven over pipes: a JSON request per line on stdin, a JSON answer per line on stdout.

    {"weights": "minilm", "bottleneck": 64, "lr": 1e-3}         once, builds the model   -> {"versions": {...}}
    {"length": 128, "batches": [[12, 40], ...]}                  one step per batch       -> {"seconds": 1.23}

A batch is given by its rows' lengths; "length" pads every batch to that many tokens, 0 to its longest row. A step is
what `fit` does: forward with dropout, cross entropy, backward, clip by the global norm, AdamW on adapters, LayerNorms
and head. It runs in an environment of its own (`make parity` installs it).
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence

import adapters
import torch
from adapters import DoubleSeqBnConfig
from torch import nn
from transformers import BertConfig, BertModel

from parity import recipe

LABELS = 3


class Trainer:
    """Houlsby by `adapters`, with the LayerNorms trained as published, and a linear head on the pooled output."""

    def __init__(self, weights: str, bottleneck: int, lr: float):
        folder = recipe.case(weights).folder
        self.bert = BertModel.from_pretrained(folder) if folder else BertModel(BertConfig(**recipe.BASE))
        width = self.bert.config.hidden_size
        adapters.init(self.bert)
        config = DoubleSeqBnConfig(non_linearity="gelu_new", reduction_factor=width / bottleneck)
        self.bert.add_adapter("houlsby", config=config)
        self.bert.train_adapter("houlsby")
        for name, tensor in self.bert.named_parameters():
            if "LayerNorm" in name:
                tensor.requires_grad_()
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(width, LABELS))
        self.bert.train()
        self.trained = [p for p in [*self.bert.parameters(), *self.head.parameters()] if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=lr, weight_decay=0.01)
        self.draw = torch.Generator().manual_seed(0)

    def step(self, lengths: Sequence[int], length: int) -> None:
        tokens = length or max(lengths)
        mask = torch.arange(tokens) < torch.tensor(lengths)[:, None]
        ids = torch.randint(1000, 30000, mask.shape, generator=self.draw) * mask
        labels = torch.randint(0, LABELS, (len(lengths),), generator=self.draw)
        pooled = self.bert(ids, attention_mask=mask.long()).pooler_output
        loss = nn.functional.cross_entropy(self.head(pooled), labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()


def main() -> None:
    trainer = Trainer(**json.loads(sys.stdin.readline()))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "adapters")}
    trained = sum(tensor.numel() for tensor in trainer.trained)
    print(json.dumps({"versions": versions, "trained": trained, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        for lengths in request["batches"]:
            trainer.step(lengths, request["length"])
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
