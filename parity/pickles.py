"""Real pickles of adapters, heads and backbones as safetensors: `python -m parity.pickles FOLDER`, in the oracles'
environment, which has torch and no JAX.

Exit code 1 where what `interop.pickles` writes differs in any bit from what the libraries write themselves, or where a
file of odd tensors is read, or is more than one line.
"""

import sys
from pathlib import Path

import adapters
import peft
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from adapters_jax.errors import AdapterError
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


def odd() -> dict[str, torch.Tensor]:
    """Tensors that a file may hold, and that are no plain ones."""
    return {
        "sparse": torch.eye(3).to_sparse(),
        "compressed": torch.eye(4).to_sparse_csr(),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.ones(3, device="meta"),
        "expanded": torch.zeros(1).expand(10**13),  # 40 TB
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }


def refusals(folder: Path) -> list[str]:
    """What is wrong with how they are refused; [] if nothing is."""
    wrong = []
    for name, tensor in odd().items():
        where = folder / name
        where.mkdir(parents=True)
        torch.save({"a": tensor}, where / "adapter_model.bin")
        try:
            pickles.to_safetensors(where)
            wrong.append(f"{name}: read")
        except AdapterError as error:
            print(f"  {error}")
            wrong += [f"{name}: {error}"] if "\n" in str(error) or any(where.glob("*.safetensors")) else []
    turned = torch.arange(6.0).view(2, 3).T  # a view, as plain as any
    (folder / "view").mkdir()
    torch.save({"a": turned, "b": turned[1:]}, folder / "view" / "adapter_model.bin")
    (path,) = pickles.to_safetensors(folder / "view")
    found = load_file(path)
    return wrong + ([] if torch.equal(found["a"], turned) and torch.equal(found["b"], turned[1:]) else ["a view"])


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
    strange = refusals(where / "odd")
    print(f"{where}: {len(seen)} pickles as safetensors; differ: {wrong or 'none'}; not met: {missing or 'none'}")
    print(f"{where}: {len(odd())} kinds of odd tensors refused; but for: {strange or 'none'}")
    return int(bool(wrong or missing or strange))


if __name__ == "__main__":
    sys.exit(main())
