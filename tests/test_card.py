"""The card that every artefact has."""

from pathlib import Path

import jax
import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert.backbone import Backbone
from adapters_jax.errors import AdapterError


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


def test_the_card_says_what_the_manifest_holds(tmp_path: Path, backbone: Backbone):
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbone.params)
    summary = {"train": {"rows": 1234, "classes": {"no": 2, "yes": 3}}, "dev": "not a table"}
    extra = {"command": ["python", "-m", "train.glue", "--task=rte"], "data_summary": summary}
    save = lambda scores: aj.save_adapter(
        tmp_path / "a", model, params, backbone, task="rte", scores=scores, seed=7, extra=extra
    )
    save({"accuracy": 0.5})
    told = (tmp_path / "a" / "README.md").read_text()
    for line in (
        "| method | houlsby |",
        "| seed | 7 |",
        "| accuracy | 0.5000 |",
        "| train set |  |",
        "| rows | 1,234 |",
        "| classes | no 2, yes 3 |",
        "python -m train.glue --task=rte",
        'aj.load_adapter("path/to/this/folder", backbone)',
    ):
        assert line in told, line
    # A card is its owner's to write on: nothing reads it, and a new save writes it anew.
    (tmp_path / "a" / "README.md").write_text("mine")
    aj.load_adapter(tmp_path / "a", backbone)
    save({"accuracy": 0.75})
    assert "| accuracy | 0.7500 |" in (tmp_path / "a" / "README.md").read_text()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "README.md").write_text("not of an artefact")
    with pytest.raises(AdapterError, match=r"expected a new or empty folder.*found README\.md"):
        aj.save_adapter(tmp_path / "b", model, params, backbone)


@pytest.mark.parametrize("found", [[1], "text", 3, {"a|b": {"rows|n": 1}}, {"train": [1]}])
def test_whatever_extra_holds_the_card_is_written(found: object, tmp_path: Path, backbone: Backbone):
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(tmp_path / "a", model, params, backbone, extra={"data_summary": found})
    told = (tmp_path / "a" / "README.md").read_text()
    assert ("| a\\|b set |" in told) == ("a|b" in found if isinstance(found, dict) else False)


def test_the_card_asks_as_the_rows_were_made(tmp_path: Path, backbone: Backbone):
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.QuestionAnswering())
    params = model.init(jax.random.key(0), backbone.params)
    extra = {"doc_stride": 8, "max_question_length": 16, "no_answer_threshold": 1.5}
    aj.save_adapter(tmp_path / "a", model, params, backbone, max_length=32, extra=extra)
    told = (tmp_path / "a" / "README.md").read_text()
    options = "max_length=32, doc_stride=8, max_question_length=16, threshold=1.5"
    assert f"aj.Predictor(model, params, backbone, {options})" in told
