"""Tune a BERT encoder on a task of GLUE: `python -m train.glue --task=mnli --method=houlsby --backbone=minilm`.

Starting again with the same flags goes on where the run stopped, or prints its result. The folder of --out-dir gets
config.yaml, metrics.jsonl, checkpoints/, adapter/ (the artefact), predictions/ and result.json.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adapters_jax as aj
from adapters_jax.flags import one_line_errors
from train import flags


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run. Input that is at fault ends it with one line and exit code 2."""
    # Else transformers tells everybody that there is no torch, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with one_line_errors():
        parsed = flags.parse(argv, "python -m train.glue", (__doc__ or "").splitlines()[0])
        run(flags.resolve(parsed))


def run(config: flags.Config) -> None:
    """Trains, unless the folder holds this very run, finished; shows the result."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from adapters_jax.training.preemption import Preempted
    from adapters_jax.training.run import RunFolder, finished
    from train import common

    out_dir, overwrite = config.out_dir, config.flags.overwrite
    if not overwrite and (result := finished(out_dir, config.to_dict())) is not None:
        print(f"{out_dir}: already finished; --overwrite starts anew")
        return common.show(result, out_dir)

    common.keep_programs(config.cache_dir)
    # All that can be wrong with what was given shows before the folder is touched.
    backbone = common.load_backbone(config)
    splits = common.open_splits(config)
    model = common.make_model(config, backbone, common.head_for(splits.train.features))
    params = common.initialise(config, model, backbone)

    with RunFolder.open(out_dir, config.to_dict(), overwrite=overwrite) as folder:
        try:
            result = train(config, model, params, backbone, splits, folder.path)
        except Preempted as stop:
            return print(stop, file=sys.stderr)
        folder.finish(result)
    common.show(result, out_dir)
    if config.flags.data == "toy":
        demonstrate(out_dir / "adapter", config.flags.max_length, backbone, splits)


def train(config: flags.Config, model: Any, params: Any, backbone: Any, splits: Any, out_dir: Path) -> dict[str, Any]:
    """Fits, scores, and writes the artefact and the predictions; returns what result.json holds."""
    from adapters_jax.data.named import task_metrics
    from adapters_jax.training.score import score
    from train import common

    metrics, best_metric = task_metrics(config.task)
    settings, tokens = flags.settings(config.flags), config.cache_dir / "tokens"
    _, report = aj.fit(
        model,
        params,
        backbone,
        splits.train,
        splits.evals[""],
        settings=settings,
        out_dir=out_dir,
        metrics=metrics,
        best_metric=best_metric,
        cache_dir=tokens,
        tensorboard=config.flags.tensorboard,
    )
    lengths = {"max_length": settings.max_length, "batch_size": settings.eval_batch_size, "cache_dir": tokens}
    scores = score(model, report.params, backbone, splits.evals, metrics, **lengths)
    aj.save_adapter(
        out_dir / "adapter",
        model,
        report.params,
        backbone,
        task=config.task,
        scores=scores.metrics,
        max_length=settings.max_length,
        seed=settings.seed,
        data=splits.train.name,
        extra={
            "columns": splits.train.features.columns,
            "eval_rows": config.flags.eval_rows,
            "eval_batch_size": settings.eval_batch_size,
        },
    )
    common.write_predictions(out_dir / "predictions", model.head, splits.evals, scores.logits)
    tests = score(model, report.params, backbone, splits.tests, **lengths)
    common.write_submissions(out_dir / "predictions", config.task, model.head, splits.tests, tests.logits)
    truncated = {"train": report.truncated[0]} | common.by_split("dev", scores.truncated)
    return common.result(
        config, model, backbone, scores.metrics, report, truncated | common.by_split("test", tests.truncated)
    )


def demonstrate(folder: Path, max_length: int, backbone: Any, splits: Any) -> None:
    """Two predictions with the artefact as it lies on disk, and the table of what was trained."""
    model, params = aj.load_adapter(folder, backbone)
    predictor = aj.Predictor(model, params, backbone, max_length=max_length)
    rows = [splits.evals[""][number] for number in range(2)]
    print(f"\n{model.summary(backbone.params)}\n\nTwo predictions with {folder}:")
    for row, answer in zip(rows, predictor([(row["text"], row["text_pair"]) for row in rows]), strict=True):
        print(f"  {row['text']} | {row['text_pair']}\n    {answer['label']} ({answer['scores'][answer['label']]:.2f})")


if __name__ == "__main__":
    main()
