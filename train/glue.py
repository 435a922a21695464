"""Tune a BERT encoder on a task of GLUE: `python -m train.glue --task=mnli --method=houlsby --backbone=minilm`.

Starting again with the same flags goes on where the run stopped, or prints its result. The folder of --out-dir gets
config.yaml, metrics.jsonl, checkpoints/, adapter/ (the artefact), predictions/ and result.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adapters_jax as aj
from adapters_jax.data.named import task_metrics
from train import flags


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.glue", __doc__)


def run(config: flags.Config) -> None:
    """Trains on a task of GLUE, and writes the predictions; on the generated task, shows two of them."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    outcome = job.run(config, open_work, add=predict)
    if outcome is not None and job.is_first() and config.flags.data == "toy":
        # One device is enough for two answers, whatever the model was trained on.
        backbone = outcome.backbone if outcome.layout is None else aj.load_backbone(config.flags.backbone)
        demonstrate(config.out_dir / "adapter", config.flags.max_length, backbone, outcome.work.evals[""])


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The task's rows, its head and its metrics."""
    from train import common, job

    splits = common.open_splits(config)
    features = splits.train.features
    head, extra = common.head_for(splits.train), {"columns": features.columns}
    return job.Work(splits.train, splits.evals, head, *task_metrics(config.task), extra=extra, tests=splits.tests)


def predict(outcome: Any) -> dict[str, Any]:
    """Writes the predictions for the dev sets and, as the leaderboard takes them, for the test sets."""
    from train import common

    folder, head, work = outcome.config.out_dir / "predictions", outcome.model.head, outcome.work
    common.write_predictions(folder, head, work.evals, outcome.scores.logits)
    tests = outcome.score(work.tests)
    common.write_submissions(folder, outcome.config.task, head, work.tests, tests.logits)
    return {"truncated": common.by_split("test", tests.truncated)}


def demonstrate(folder: Path, max_length: int, backbone: Any, dev: Any) -> None:
    """Two predictions with the artefact as it lies on disk, and the table of what was trained."""
    model, params = aj.load_adapter(folder, backbone)
    predictor = aj.Predictor(model, params, backbone, max_length=max_length)
    rows = [dev[number] for number in range(2)]
    print(f"\n{model.summary(backbone.params)}\n\nTwo predictions with {folder}:")
    for row, answer in zip(rows, predictor([(row["text"], row["text_pair"]) for row in rows]), strict=True):
        print(f"  {row['text']} | {row['text_pair']}\n    {answer['label']} ({answer['scores'][answer['label']]:.2f})")


if __name__ == "__main__":
    main()
