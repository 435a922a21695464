"""Adapters from the hub and to it, over the loopback: whole, pinned, cut, changed, closed, absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.errors import AdapterError, BackboneError, ConfigError
from adapters_jax.hub import parse
from adapters_jax.interop import save_adapterhub
from tests.interop.drawn import drawn
from tests.interop.hub_server import Hub

REPO, SOURCE = "me/films", "hf:me/films"
WEIGHTS = "adapter.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fails(source: str, backbone: aj.Backbone, error: type[Exception] = AdapterError) -> str:
    with pytest.raises(error) as told:
        aj.load_adapter(source, backbone)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_is_fetched_is_what_was_saved(hub: Hub, saved: Path, tiny, caplog):
    more = {"pytorch_model.bin": b"cos", "train.log": b"x", "checkpoint-1/adapter.safetensors": b"x", "README.md": b"x"}
    commit = hub.add(REPO, files(saved) | more)
    with caplog.at_level("INFO", "adapters_jax"):
        model, params = aj.load_adapter(SOURCE, tiny)
    expected = aj.load_adapter(saved, tiny)
    assert model == expected[0]
    testing.assert_same(params, expected[1])
    assert f"hf:me/films@{commit}: fetched" in caplog.text
    asked = {line.rsplit(f"{commit}/", 1)[1] for line in hub.requests if "/resolve/" in line}
    assert asked == {WEIGHTS, "manifest.json"}


def test_a_revision_is_pinned(hub: Hub, saved: Path, tiny, tmp_path: Path):
    other = drawn(tiny, aj.LoRA(rank=3))
    aj.save_adapter(tmp_path / "other", *other, tiny)
    old = hub.add(REPO, files(saved))
    hub.add(REPO, files(saved), branch="v1")
    hub.add(REPO, files(tmp_path / "other"))
    ranks = [aj.load_adapter(f"{SOURCE}{at}", tiny)[0].method.rank for at in ("", "@v1", f"@{old}", "@main")]
    assert ranks == [3, 2, 2, 3]
    assert "the hub has no revision 'v2'" in fails(f"{SOURCE}@v2", tiny)


def test_a_download_that_is_cut_goes_on(hub: Hub, saved: Path, tiny):
    hub.add(REPO, files(saved))
    hub.cuts[WEIGHTS] = 2
    testing.assert_same(aj.load_adapter(SOURCE, tiny)[1], aj.load_adapter(saved, tiny)[1])
    assert hub.cuts[WEIGHTS] == 0


def test_a_download_that_is_cut_for_good_is_an_error_and_can_be_repeated(hub: Hub, saved: Path, tiny):
    hub.add(REPO, files(saved))
    hub.cuts[WEIGHTS] = 10**6
    assert "fetching broke off" in fails(SOURCE, tiny)
    hub.cuts.clear()
    testing.assert_same(aj.load_adapter(SOURCE, tiny)[1], aj.load_adapter(saved, tiny)[1])


@pytest.mark.parametrize("name", [WEIGHTS, "manifest.json"])
def test_content_that_is_not_what_the_hub_names_it_is_refused(hub: Hub, saved: Path, tiny, name: str):
    """Large files by their sha256, small ones by git's sha1."""
    hub.add(REPO, files(saved))
    whole = files(saved)[name]
    hub.wrong[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    assert f"{name}: expected the content that the hub names" in fails(SOURCE, tiny)


def test_content_that_is_not_what_the_manifest_says_is_refused(hub: Hub, saved: Path, tiny):
    whole = files(saved)[WEIGHTS]
    commit = hub.add(REPO, files(saved) | {WEIGHTS: whole[:-1] + bytes([whole[-1] ^ 1])})
    told = fails(SOURCE, tiny)
    assert f"{SOURCE}@{commit}: {WEIGHTS}: expected sha256" in told


def test_closed_and_absent_repositories(hub: Hub, saved: Path, tiny):
    hub.add(REPO, files(saved))
    hub.private.add(REPO)
    assert "not on the hub, or not open to you; log in" in fails(SOURCE, tiny)
    assert "not on the hub, or not open to you; log in" in fails("hf:me/films2", tiny)
    with pytest.raises(BackboneError, match="backbone me/bert: not on the hub, or not open to you.*local folder with"):
        aj.load_backbone("me/bert")


def test_without_a_network_the_cache_serves(hub: Hub, saved: Path, tiny):
    hub.add(REPO, files(saved))
    aj.load_adapter(SOURCE, tiny)
    hub.http.shutdown()
    hub.http.server_close()
    testing.assert_same(aj.load_adapter(SOURCE, tiny)[1], aj.load_adapter(saved, tiny)[1])
    assert "the hub cannot be reached and no whole copy is cached" in fails("hf:me/other", tiny)


def test_repositories_without_an_adapter(hub: Hub, tiny):
    hub.add(REPO, {"README.md": b"a", "config.json": b"{}"})
    assert "expected an adapter (one of adapter.safetensors" in fails(SOURCE, tiny)
    hub.add("me/old", {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.bin": b"cos\nsystem\n"})
    told = fails("hf:me/old", tiny)
    assert "found adapter_model.bin, a pickle, which can run code" in told
    assert "adapters-jax convert --from=hf:me/old@" in told
    assert not any("adapter_model.bin" in line for line in hub.requests if "/resolve/" in line)


@pytest.mark.parametrize("source", ["hf:films", "hf:me/films@", "hf:../films", "hf:a/b/c", "hf:me/fi lms", "hf:"])
def test_names_that_are_none(source: str, tiny):
    with pytest.raises(ConfigError, match="expected hf:user/name or hf:user/name@revision"):
        aj.load_adapter(source, tiny)
    assert parse("hf:me/a.b-c@refs/pr/1") == ("me/a.b-c", "refs/pr/1")


def test_a_backbone_comes_the_same_way(hub: Hub, tiny):
    commit = hub.add("me/bert", files(tiny.folder) | {"pytorch_model.bin": b"cos"})
    loaded = aj.load_backbone("me/bert")
    assert (loaded.revision, loaded.fingerprint) == (commit, tiny.fingerprint)
    assert not any("pytorch_model" in line for line in hub.requests)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: files of the cache are no links, whose targets are named by their content."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS_WARNING", True)


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_content_is_checked_without_links_too(name: str, hub: Hub, tiny, tmp_path: Path, no_links, caplog):
    save_adapterhub(tmp_path / "a", *drawn(tiny, aj.LoRA(rank=2)), tiny)
    whole = files(tmp_path / "a")
    hub.add(REPO, whole)
    testing.assert_same(aj.load_adapter(SOURCE, tiny)[1], aj.load_adapter(tmp_path / "a", tiny)[1])
    assert not caplog.records
    hub.add("me/changed", whole)
    hub.wrong[name] = whole[name][:-2] + bytes([whole[name][-2] ^ 1]) + whole[name][-1:]
    assert f"{name}: expected the content that the hub names" in fails("hf:me/changed", tiny)


def test_without_links_and_network_a_warning_says_what_is_not_checked(hub: Hub, saved, tiny, no_links, caplog):
    hub.add(REPO, files(saved))
    aj.load_adapter(SOURCE, tiny)
    hub.http.shutdown()
    hub.http.server_close()
    aj.load_adapter(SOURCE, tiny)
    (told,) = (record.getMessage() for record in caplog.records if record.name == "adapters_jax.hub")
    assert f"{SOURCE}: not checked against the hub's names of their content: {WEIGHTS}, manifest.json" in told


def test_a_cut_download_is_no_adapter_without_a_network(hub: Hub, tiny, tmp_path: Path):
    """Its head is missing, so that it would load as the adapter of a bare encoder."""
    save_adapterhub(tmp_path / "a", *drawn(tiny, aj.LoRA(rank=2)), tiny)
    commit = hub.add(REPO, files(tmp_path / "a"))
    aj.load_adapter(SOURCE, tiny)
    (snapshot,) = (tmp_path / "hub-cache").glob(f"**/snapshots/{commit}")
    for name in ("head_config.json", "model_head.safetensors"):
        (snapshot / name).unlink()
    hub.http.shutdown()
    hub.http.server_close()
    assert "no whole copy is cached" in fails(SOURCE, tiny)


def test_only_files_that_are_used_are_checked(hub: Hub, saved: Path, tiny, tmp_path: Path):
    commit = hub.add(REPO, files(saved))
    aj.load_adapter(SOURCE, tiny)
    (snapshot,) = (tmp_path / "hub-cache").glob(f"**/snapshots/{commit}")
    (tmp_path / ("0" * 64)).write_bytes(b"of another program, half of it")
    (snapshot / "tf_model.h5").symlink_to(tmp_path / ("0" * 64))
    aj.load_adapter(SOURCE, tiny)
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(tmp_path / ("0" * 64))
    assert "expected the content that the hub names 0000" in fails(SOURCE, tiny)


@pytest.mark.slow
def test_the_command_line_finds_the_hub_by_its_environment(hub: Hub, saved: Path, tmp_path: Path):
    commit = hub.add(REPO, files(saved))
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    argv = ["convert", f"--from={SOURCE}", "--to=native", f"--out={tmp_path / 'out'}"]
    code = f"from adapters_jax.cli import main; main({argv!r})"
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["from"]["revision"] == commit
    assert files(tmp_path / "out") == files(saved)
