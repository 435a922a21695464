"""An AdaLoRA adapter as peft writes and reads it: `python -m parity.peft_files write|read FOLDER`, in the oracles'
environment.

write: trains one on the small BERT until its ranks are final, saves it and the logits of two batches.
read: loads the adapter that stands there; exit 1 where its logits are not those that stand beside it, within 1e-5.
"""

import sys
from pathlib import Path

import numpy as np
import peft
import torch
from transformers import BertConfig, BertForSequenceClassification

from parity import peers, recipe
from parity.oracle import array, inputs
from parity.torch_bert import bert

BOUND = 1e-5
STEPS = 12


def classifier() -> BertForSequenceClassification:
    """The small BERT under a head that the recipe draws."""
    model = BertForSequenceClassification(BertConfig(**peers.CONFIG, num_labels=recipe.LABELS))
    model.bert.load_state_dict(bert().state_dict())
    with torch.no_grad():
        for name, tensor in model.classifier.named_parameters():
            tensor.copy_(torch.from_numpy(recipe.normal(f"classifier.{name}", tuple(tensor.shape), peers.STD)))
    return model.eval()


def logits(model: torch.nn.Module) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {str(i): array(model(**inputs(batch)).logits) for i, batch in enumerate(peers.batches())}


def write(folder: Path) -> None:
    torch.manual_seed(0)
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS",
        init_r=4,
        target_r=2,
        lora_alpha=8,
        tinit=2,
        tfinal=4,
        deltaT=1,
        total_step=STEPS,
        target_modules=["query", "value", "intermediate.dense"],
    )
    model = peft.get_peft_model(classifier(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(STEPS):
        batch = peers.batches()[step % 2]
        model(**inputs(batch), labels=torch.from_numpy(batch["labels"]).long()).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(classifier(), folder).eval()
    np.savez(folder / "logits.npz", **logits(again))
    (folder / "README.md").unlink(missing_ok=True)
    print(f"{folder}: written by peft {peft.__version__}")


def read(folder: Path) -> int:
    model = peft.PeftModel.from_pretrained(classifier(), folder).eval()
    expected = np.load(folder / "logits.npz")
    gaps = [float(abs(found - expected[name]).max()) for name, found in logits(model).items()]
    print(f"{folder}: logits in peft {peft.__version__} within {max(gaps):.1e}")
    return int(max(gaps) > BOUND)


if __name__ == "__main__":
    sys.exit({"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2])))
