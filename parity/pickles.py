"""Real pickles of adapters, heads and backbones as safetensors: `python -m parity.pickles FOLDER`, in the oracles'
environment, which has torch and no JAX.

Exit code 1 where what `interop.pickles` writes differs in any bit from what the libraries write themselves.
"""

import sys
from pathlib import Path

import adapters
import peft
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from adapters_jax.interop import pickles
from parity import peers


def write(folder: Path, safe: bool) -> None:
    """An adapter of each library, and a backbone, with the same values whether in pickles or not."""
    torch.manual_seed(0)
    config = BertConfig(**peers.CONFIG, num_labels=3)
    plain = BertForSequenceClassification(config)
    folder.mkdir(parents=True)
    if safe:
        plain.save_pretrained(folder / "backbone", safe_serialization=True)
    else:
        plain.config.save_pretrained(folder / "backbone")
        torch.save(plain.state_dict(), folder / "backbone" / "pytorch_model.bin")
    lora = peft.get_peft_model(plain, peft.LoraConfig(task_type="SEQ_CLS", r=4))
    lora.save_pretrained(folder / "peft", safe_serialization=safe)

    hub = adapters.BertAdapterModel(config)
    for name in ("a", "b"):
        hub.add_adapter(name, config="seq_bn")
    hub.add_classification_head("a", num_labels=3)
    hub.add_adapter_fusion(["a", "b"])
    hub.save_adapter(str(folder / "adapterhub"), "a", use_safetensors=safe)
    hub.save_adapter_fusion(str(folder / "fusion"), "a,b", use_safetensors=safe)


def main() -> int:
    where, wrong, seen = Path(sys.argv[1]), [], []
    write(where / "pickled", safe=False)
    write(where / "safe", safe=True)
    for folder in sorted((where / "pickled").iterdir()):
        for path in pickles.to_safetensors(folder):
            seen.append(path.name)
            found = load_file(path)
            expected = load_file(where / "safe" / folder.name / path.name)
            same = set(found) == set(expected) and all(
                a.dtype == b.dtype and torch.equal(a, b) for a, b in ((found[n], expected[n]) for n in expected)
            )
            wrong += [] if same else [f"{folder.name}/{path.name}"]
    missing = set(pickles.FILES.values()) - set(seen)
    print(f"{where}: {len(seen)} pickles as safetensors; differ: {wrong or 'none'}; not met: {missing or 'none'}")
    return int(bool(wrong or missing))


if __name__ == "__main__":
    sys.exit(main())
