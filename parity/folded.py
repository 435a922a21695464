"""Loads folded models with transformers: `python -m parity.folded FOLDER`, in the oracles' environment.

Exit code 1 where a key is missing, unexpected or of another shape, where the answers are not those that stand beside
the weights (1e-5), or where label names or the kind of problem got lost.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from parity import peers
from parity.oracle import array, inputs

BOUND = 1e-5


def problems(folder: Path) -> list[str]:
    """What is wrong with one folder; [] if nothing is."""
    config = json.loads((folder / "config.json").read_text())
    architecture = getattr(transformers, config["architectures"][0])
    model, loading = architecture.from_pretrained(folder, output_loading_info=True)
    found = [f"{kind}: {keys}" for kind, keys in loading.items() if keys]
    with torch.no_grad():
        output = model.eval()(**inputs(peers.batches()[0]))
    answer = array(output.last_hidden_state if architecture is transformers.BertModel else output.logits)
    gap = float(abs(answer - np.load(folder / "answers.npy")).max())
    if not gap <= BOUND:
        found.append(f"answers differ by {gap:.1e}")
    names = {str(number): name for number, name in model.config.id2label.items()}
    if names != config.get("id2label", names):
        found.append(f"label names {model.config.id2label}")
    if model.config.problem_type != config.get("problem_type"):
        found.append(f"problem_type {model.config.problem_type}")
    print(f"{folder}: {architecture.__name__} of transformers {transformers.__version__}, within {gap:.1e}")
    return found


def main() -> int:
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/config.json"))
    wrong = {folder.name: found for folder in folders if (found := problems(folder))}
    print(f"{len(folders)} folded models" + "".join(f"\n{name}: {found}" for name, found in wrong.items()))
    return int(bool(wrong) or not folders)


if __name__ == "__main__":
    sys.exit(main())
