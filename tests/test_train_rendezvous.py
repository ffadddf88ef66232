"""Meeting of nodes: a wrong address, a taken port and a silent host are each told before anything is started."""

import logging
import socket
import threading
import time

import pytest

from cvft.errors import RunError
from cvft.plan.ranks import split_rendezvous
from cvft.train.rendezvous import check_port_is_free, wait_for_first_node


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_is_split_at_its_last_colon():
    assert split_rendezvous("node0:29500") == ("node0", 29500)


def test_a_taken_port_is_told(listening):
    with pytest.raises(RunError) as raised:
        check_port_is_free(f"localhost:{listening}")
    assert f"parallel.rendezvous: got port {listening}: Address already in use, need a free port" in str(raised.value)


def test_a_free_port_is_not(listening):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_port_is_free(f"localhost:{port}")


def test_a_host_without_address_is_told_at_once():
    start = time.monotonic()
    with pytest.raises(RunError, match=r"host `no-such-host\.invalid`"):
        wait_for_first_node("no-such-host.invalid:29500", timeout_s=3600)
    assert time.monotonic() - start < 600


def test_a_silent_host_is_told_after_the_timeout(listening):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RunError, match=r"no answer from 127\.0\.0\.1:\d+ in 0\.5 s"):
        wait_for_first_node(f"127.0.0.1:{port}", timeout_s=0.5)


def test_the_first_node_may_come_later(caplog):
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def listen_later() -> None:
        time.sleep(1.5)
        with socket.create_server(("127.0.0.1", port)) as late:
            connection, _ = late.accept()
            connection.close()

    thread = threading.Thread(target=listen_later)
    thread.start()
    wait_for_first_node(f"127.0.0.1:{port}", timeout_s=300)
    thread.join()
    assert "waiting   for the first node at 127.0.0.1" in caplog.text
