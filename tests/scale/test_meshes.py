"""Eight virtual devices learn what one learns, however the model lies on them."""

from pathlib import Path

import numpy as np
import pytest

from tests.scale.start import said, start

MESHES = ("data=8", "fsdp=8", "data=2,model=2,fsdp=2", "data=2,model=4")
METHODS = {"houlsby": {"bottleneck": 4}, "lora": {}, "full": {}}


def runs(method: str, fields: dict, **more: object) -> list[dict]:
    one = {"method": [method, fields], "fit": {"steps": 20}} | more
    meshes = [{"mesh": mesh, "run": f"{method}-{number}"} for number, mesh in enumerate(MESHES)]
    return [one | {"run": f"{method}-one"}, *(one | mesh for mesh in meshes)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_are_those_of_one_device(method: str, tmp_path: Path):
    told = {"devices": 8, "folder": str(tmp_path), "runs": runs(method, METHODS[method])}
    alone, *found = said(start(told))
    assert len(alone["losses"]) == 20
    for mesh, run in zip(MESHES, found, strict=True):
        np.testing.assert_allclose(run["losses"], alone["losses"], rtol=1e-5, err_msg=mesh)
        assert run["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)


@pytest.mark.slow
def test_accumulated_sharded_and_quantised(tmp_path: Path):
    """Splitting adapters too, two parts a step, over NF4 codes."""
    one = {"method": ["lora", {"dropout": 0.1}], "quantize": "nf4", "fit": {"steps": 10, "accumulate": 2}}
    split = {"mesh": "data=2,fsdp=2,model=2", "shard_adapters": True}
    alone, found = said(
        start({"devices": 8, "folder": str(tmp_path), "runs": [one | {"run": "one"}, one | split | {"run": "split"}]})
    )
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5)
