"""Groups that cannot be are refused in one line, before anything waits."""

import socket

import pytest

from adapters_jax.errors import ConfigError, Incomplete
from adapters_jax.training import processes
from adapters_jax.training.processes import Group, exchange, is_first, join, together


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 2, "process": 0}, "belong together: expected all of them or none, got no --coordinator"),
        ({"coordinator": "here:1"}, "got no --processes, --process"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "expected HOST:PORT, got 'here'"),
        ({"coordinator": "here:99999", "processes": 2, "process": 0}, "expected HOST:PORT"),
        ({"coordinator": "here:1", "processes": 2, "process": 2}, "expected 0 to 1 of 2, got 2"),
        ({"heartbeat": 0}, "at least 1 second, got 0"),
    ],
)
def test_bad_groups(given, message):
    with pytest.raises(ConfigError, match=message):
        Group(**given)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used here"):
            join(Group(f"127.0.0.1:{port}", 2, 0))


def test_nobody_at_the_address(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Incomplete, match=f"127.0.0.1:{port}: nobody listens there after 1 s"):
        join(Group(f"127.0.0.1:{port}", 2, 1, patience=1))
    assert f"process 1 of 2: waiting for process 0 at 127.0.0.1:{port}" in capsys.readouterr().err


def test_one_process_speaks_to_itself():
    assert is_first() and exchange("x") == ["x"]
    with pytest.raises(ConfigError, match="own"), together():
        raise ConfigError("own")


def test_what_one_process_finds_ends_the_others(monkeypatch):
    monkeypatch.setattr(processes, "exchange", lambda text: [text, "data: no such folder"])
    with pytest.raises(processes.AdaptersJaxError, match="process 1: data: no such folder"), together():
        pass
