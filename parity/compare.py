"""Compares live vectors with the stored ones: `python -m parity.compare STORED LIVE`; exit 1 where they differ.

The stored are float64 results, the live float32: they agree to 1e-5 of an array's norm, or within 1e-6 where the value
is 0 in theory (the gradient of the key biases).
"""

import sys
from pathlib import Path

import numpy as np

from parity import encoders_texts, recipe

RELATIVE, ABSOLUTE = 1e-5, 1e-6
FILES = (*recipe.CASES, "peers", *(f"encoders/{family}/golden" for family in encoders_texts.FAMILIES))


def differences(stored: Path, live: Path) -> list[str]:
    """What differs between two folders of vectors, one line each."""
    found = []
    for name in FILES:
        load = _plain if name.startswith("encoders/") else recipe.load
        old, new = load(stored / f"{name}.npz"), load(live / f"{name}.npz")
        found += [f"{name} {key}: not in {live}" for key in sorted(set(old) - set(new))]
        for key in sorted(set(old) & set(new)):
            a, b = old[key].astype(np.float64), new[key].astype(np.float64)
            gap = np.linalg.norm(a - b)
            if gap > RELATIVE * np.linalg.norm(a) and gap > ABSOLUTE:
                found.append(f"{name} {key}: differ by {gap:.1e} of {np.linalg.norm(a):.1e}")
        print(f"{name}: {len(set(old) & set(new))} stored arrays compared")
    return found


def _plain(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)


def main() -> int:
    found = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
