"""Writes the vectors of other libraries' methods: `python -m parity.peers_oracle --out FOLDER` -> FOLDER/peers.npz.

All cases of all modules peers_*.py beside this one that have `CASES`. Stored vectors are made in float64
(`--dtype=float64`), live ones in float32.
"""

import argparse
import importlib
import os
from pathlib import Path

import numpy as np
import torch

from parity import recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.stem for path in Path(__file__).parent.glob("peers_*.py") if path.stem != Path(__file__).stem)
    cases = {}
    for name in names:
        cases |= importlib.import_module(f"parity.{name}").CASES
    torch.set_default_dtype(getattr(torch, args.dtype))
    kept: dict[str, np.ndarray] = {}
    for case, vectors in cases.items():
        for key, value in vectors():
            kept |= recipe.record(f"{case}/{key}", value, whole=True)
    recipe.save(args.out / "peers.npz", kept)
    print(f"peers: {len(cases)} cases, {len(kept)} arrays, {(args.out / 'peers.npz').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
