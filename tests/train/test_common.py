"""What training jobs share."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from train import common


def test_the_peak_is_the_process_s_and_does_not_fall():
    before = common.peak_memory_bytes()
    assert 10**8 < before < 10**12
    block = np.ones(40 * 2**20)
    block_bytes, during = block.nbytes, common.peak_memory_bytes()
    assert during > block_bytes
    del block
    assert common.peak_memory_bytes() > during - block_bytes / 2  # the kernel's counters are not exact


def test_a_device_that_counts_its_memory_is_asked(monkeypatch: pytest.MonkeyPatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 5, "peak_bytes_in_use": 7})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert common.peak_memory_bytes() == 7
