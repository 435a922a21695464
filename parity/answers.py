"""A thousand random sets of answers, scored by the rules of SQuAD: `python -m parity.answers FOLDER`, in the oracles'
environment, writes the scores of transformers (squad_metrics, after the official script), in percent, into answers.npz.
"""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("the", "a", "an", "The", "cat", "Cat,", "dog's", "(1998)", "1998", "naïve", "  ", "\u3000", "_", "A.", "U.S.")
CASES = 1000
NAMES = ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_f1", "best_f1_thresh")
Case = tuple[dict[str, str], dict[str, float], dict[str, list[str]]]
"""Question -> answer, -> how much likelier none is, -> true answers."""


def case(seed: int) -> Case:
    """A few questions; in two of three cases some have no answer."""
    draw = random.Random(seed)

    def text(least: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(least, 5)))

    questions = [f"q{number}" for number in range(draw.randrange(1, 7))]
    true = {
        q: [] if seed % 3 and draw.random() < 0.4 else [text(1) for _ in range(draw.randrange(1, 4))] for q in questions
    }
    if not any(true.values()):
        true[questions[0]] = ["the cat"]
    answers = {q: draw.choice(golds) if golds and draw.random() < 0.5 else text(0) for q, golds in true.items()}
    return answers, {q: draw.choice((-3.0, 0.5, draw.random())) for q in questions}, true


def scored(seed: int) -> dict[str, Any]:
    from transformers.data.metrics import squad_metrics
    from transformers.data.processors.squad import SquadExample

    answers, nothing, true = case(seed)
    examples = [
        SquadExample(q, "", "", None, None, "", [{"text": text} for text in golds]) for q, golds in true.items()
    ]
    found = dict(squad_metrics.squad_evaluate(examples, answers))
    _, raw = squad_metrics.get_raw_scores(examples, answers)
    has_answer = {q: bool(golds) for q, golds in true.items()}
    best, threshold = squad_metrics.find_best_thresh(answers, raw, nothing, has_answer)
    return found | {"best_f1": best, "best_f1_thresh": threshold}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    found = [scored(seed) for seed in range(CASES)]
    columns = {name: np.array([each.get(name, np.nan) for each in found]) for name in NAMES}
    np.savez_compressed(folder / "answers.npz", **columns)
    print(f"{folder / 'answers.npz'}: {CASES} cases")
