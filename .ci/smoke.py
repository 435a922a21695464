"""What a user of the wheel does first: a tiny backbone, an adapter, an artefact, a prediction. The wheel suffices."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

import adapters_jax as aj
from adapters_jax import testing

TRAIN = [{"text": "the cat is good", "label": "good"}, {"text": "the dog is not good", "label": "bad"}] * 8


def main() -> None:
    unexpected = {"torch", "tensorflow"} & set(sys.modules)
    assert not unexpected, f"imported {unexpected}"
    with tempfile.TemporaryDirectory() as place:
        folder, adapter = Path(place) / "bert", Path(place) / "adapter"
        backbone = testing.tiny_backbone(folder)
        model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(labels=("bad", "good")))
        params = model.init(jax.random.key(0), backbone.params)
        _, found = aj.fit(
            model, params, backbone, TRAIN, TRAIN, steps=10, batch_size=8, lr=1e-2, max_length=16, quiet=True
        )
        aj.save_adapter(adapter, model, found.params, backbone)
        loaded, params = aj.load_adapter(adapter, backbone)
        answers = aj.Predictor(loaded, params, backbone)(["the cat is good"])
        assert set(answers[0]["scores"]) == {"bad", "good"}
        script = Path(sys.executable).with_name("adapters-jax")
        subprocess.run([script, "inspect", adapter], check=True, stdout=subprocess.DEVNULL)
        print(json.dumps(answers))
    unexpected = {"torch", "tensorflow"} & set(sys.modules)
    assert not unexpected, f"imported {unexpected}"


if __name__ == "__main__":
    main()
