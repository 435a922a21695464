"""Adapters as peft writes and reads them: `python -m parity.peft_files write|read FOLDER`, in the oracles' environment.

write: a folder FOLDER/CASE for each of CASES: the adapter, every trained value drawn away from where it starts, and the
its outputs, by a model that peft loaded from there.
read: loads every folder of FOLDER; exit 1 where its outputs are not those that stand beside it, within 1e-5.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

from parity import peers, peft_cases, recipe
from parity.oracle import array, inputs
from parity.torch_bert import bert

BOUND = 1e-5
STEPS = 12
MODELS = {"SEQ_CLS": BertForSequenceClassification, "TOKEN_CLS": BertForTokenClassification}
ROWS = 5

ATTENTION = r".*attention\.self\.(query|value)"
FEED_FORWARD = r"encoder\.layer\.\d+\.(intermediate|output)\.dense"
OUTPUT = r".*layer\.\d+\.output\.dense"

CONFIGS: dict[str, Callable[..., peft.PeftConfig]] = {
    "lora": lambda **k: peft.LoraConfig(r=2, lora_alpha=6, target_modules=["query", "value"], **k),
    "lora-pattern": lambda **k: peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=r".*encoder\.layer\..*(query|key|dense)",
        rank_pattern={FEED_FORWARD: 2},
        alpha_pattern={FEED_FORWARD: 6, "query": 3},
        **k,
    ),
    "lora-rs": lambda **k: peft.LoraConfig(
        r=4,
        lora_alpha=4,
        use_rslora=True,
        target_modules=["attention.output.dense", "key"],
        layers_to_transform=[1],
        **k,
    ),
    "lora-dora": lambda **k: peft.LoraConfig(
        r=2, lora_alpha=4, use_dora=True, target_modules=rf"{ATTENTION}|.*intermediate\.dense", **k
    ),
    "adalora": lambda **k: peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=8,
        tinit=2,
        tfinal=4,
        deltaT=1,
        total_step=STEPS,
        target_modules=["query", "value", "intermediate.dense"],
        **k,
    ),
    "ia3": lambda **k: peft.IA3Config(**k),
    "ia3-results": lambda **k: peft.IA3Config(
        target_modules=["key", "value", "intermediate.dense"], feedforward_modules=[], **k
    ),
    "ia3-paper": lambda **k: peft.IA3Config(
        target_modules=rf".*self\.(key|value)|{OUTPUT}", feedforward_modules=OUTPUT, **k
    ),
    "prefix": lambda **k: peft.PrefixTuningConfig(num_virtual_tokens=ROWS, **k),
    "prefix-network": lambda **k: peft.PrefixTuningConfig(
        num_virtual_tokens=ROWS, prefix_projection=True, encoder_hidden_size=8, **k
    ),
    "prompt": lambda **k: peft.PromptTuningConfig(num_virtual_tokens=ROWS, **k),
    "p_tuning-lstm": lambda **k: peft.PromptEncoderConfig(
        num_virtual_tokens=ROWS, encoder_reparameterization_type="LSTM", encoder_hidden_size=12, **k
    ),
    "p_tuning-mlp": lambda **k: peft.PromptEncoderConfig(num_virtual_tokens=ROWS, encoder_hidden_size=12, **k),
    "layernorm": lambda **k: peft.LNTuningConfig(target_modules=["LayerNorm"], **k),
    "layernorm-layer": lambda **k: peft.LNTuningConfig(target_modules=r".*layer\.1\..*LayerNorm", **k),
}
TASKS = {"texts": "SEQ_CLS", "tokens": "TOKEN_CLS", "bare": "FEATURE_EXTRACTION"}
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    f"{name}-{about}": (name, task, {}) for name in CONFIGS for about, task in TASKS.items()
} | {
    "lora-regression": ("lora", "SEQ_CLS", {}),
    "lora-pooler": ("lora", "SEQ_CLS", {"modules_to_save": ["pooler"]}),
    "prompt-pooler": ("prompt", "SEQ_CLS", {"modules_to_save": ["pooler"]}),
    "lora-no_task": ("lora", None, {}),
    "lora-no_task-tokens": ("lora", None, {"modules_to_save": ["classifier"]}),
    "lora-all_linear": (
        "lora",
        "TOKEN_CLS",
        {"target_modules": "all-linear", "modules_to_save": ["classifier"]},
    ),
    "lora-linear": ("lora", "SEQ_CLS", {"target_modules": "all-linear", "use_rslora": True}),
    "lora-dense": ("lora", "SEQ_CLS", {"target_modules": ["query", "value", "dense"], "use_dora": True}),
}
"""Case -> (key of CONFIGS, task type, further options)."""


def base(case: str, config: dict[str, Any]) -> torch.nn.Module:
    """The small BERT under a head that the recipe draws, which no adapter keeps."""
    kind = MODELS.get(config["task_type"], BertForTokenClassification if case.endswith("tokens") else None)
    if kind is None:
        return bert()
    labels = 1 if "regression" in case else recipe.LABELS
    model = kind(BertConfig(**peers.CONFIG, num_labels=labels, attn_implementation="eager"))
    model.bert.load_state_dict(bert().state_dict(), strict=kind is BertForSequenceClassification)  # tokens: no pooler
    with torch.no_grad():
        for name, tensor in model.classifier.named_parameters():
            tensor.copy_(torch.from_numpy(recipe.normal(f"classifier.{name}", tuple(tensor.shape), peers.STD)))
    return model.eval()


def outputs(model: torch.nn.Module, case: str, bare: bool) -> np.ndarray:
    """Logits, or hidden states of a bare encoder; without the rows that prompts add."""
    batch = peft_cases.batch(case, bare)
    with torch.no_grad():
        answer = model(**inputs(batch))
    each = array(answer.last_hidden_state if bare else answer.logits)
    return each[:, -batch["input_ids"].shape[1] :] if each.ndim == 3 else each


def draw(model: torch.nn.Module) -> None:
    """Every trained value drawn away from where it starts, by N(0, 0.1^2)."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.requires_grad:
                tensor.add_(torch.from_numpy(recipe.normal(name, tuple(tensor.shape), peers.STD)))


def train(model: torch.nn.Module) -> None:
    """Until the ranks of AdaLoRA are final."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(STEPS):
        answer = model(**inputs(peers.batches()[step % 2]))
        (answer.logits if hasattr(answer, "logits") else answer.last_hidden_state[..., :3]).square().mean().backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def load(folder: Path, case: str) -> tuple[torch.nn.Module, bool]:
    config = json.loads((folder / "adapter_config.json").read_text())
    model = base(case, config)
    return peft.PeftModel.from_pretrained(model, folder).eval(), isinstance(model, BertModel)


def write(folder: Path) -> None:
    for case, (name, task, options) in CASES.items():
        torch.manual_seed(0)
        config = CONFIGS[name](task_type=task)
        for option, value in options.items():
            setattr(config, option, value)
        model = peft.get_peft_model(base(case, {"task_type": task}), config)
        draw(model)
        if name == "adalora":
            train(model)
        model.eval().save_pretrained(folder / case)
        (folder / case / "README.md").unlink(missing_ok=True)
        model, bare = load(folder / case, case)
        peft_cases.save(folder / case, outputs(model, case, bare), bare)
    print(f"{folder}: {len(CASES)} adapters written by peft {peft.__version__}")


def read(folder: Path) -> int:
    worst = {}
    for path in sorted(each for each in folder.iterdir() if each.is_dir()):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            model, bare = load(path, path.name)
        worst[path.name] = peft_cases.gap(path, outputs(model, path.name, bare), bare)
    print(f"{folder}: outputs of {len(worst)} adapters in peft {peft.__version__} within {max(worst.values()):.1e}")
    wrong = {name: gap for name, gap in worst.items() if not gap <= BOUND}
    for name, gap in wrong.items():
        print(f"{name}: differs by {gap:.1e}")
    return int(bool(wrong))


if __name__ == "__main__":
    torch.set_num_threads(1)  # small products: threads would wait for each other
    sys.exit({"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2])))
