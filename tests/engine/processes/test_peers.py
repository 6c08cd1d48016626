"""Connections between the processes of a run; what they are for is tested with real ones in test_faults.py."""
import socket
import threading

import pytest

from timm_ltkd.engine.processes import peers


@pytest.fixture
def alone(monkeypatch):
    """A first process to which nobody speaks."""
    monkeypatch.setattr(peers, 'broadcast_object_list', lambda objects: objects)
    monkeypatch.setattr(peers, 'gather_object', lambda objects: objects)
    monkeypatch.setattr(peers, '_CONNECT', 0.2)


def test_a_run_goes_on_where_processes_cannot_connect(alone, log):
    assert peers._connect(0, 2) == {}
    assert 'if one dies, the others may wait' in log[-1]


def test_a_stranger_is_no_process(monkeypatch):
    monkeypatch.setenv('MASTER_ADDR', 'localhost')
    found = {}
    with socket.create_server(('localhost', 0)) as server:
        port = server.getsockname()[1]
        first = threading.Thread(target=lambda: found.update(peers._called(server, 'token', 2)))
        first.start()
        for said in (b'GET / HTTP/1.1\n', b'guess 1\n', b'token x\n', b'\xff\xfe\n', b''):
            with socket.create_connection(('localhost', port)) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
        link = peers._call(port, 'token', 1)[0]
        first.join()
    assert list(found) == [1]
    link.sendall(b'null')
    assert found[1].recv(4) == b'null'
    for each in (link, found[1]):
        each.close()


def test_connections_of_one_machine(alone, monkeypatch):
    places = []
    monkeypatch.setattr(peers, '_CONNECT', 20.)
    monkeypatch.setattr(peers, 'broadcast_object_list', places.append)
    first = threading.Thread(target=lambda: links.update(peers._connect(0, 2)))
    links = {}
    first.start()
    while not places:
        pass
    link = peers._call(*places[0], 1)[0]
    first.join()
    assert list(links) == [1] and links[1].gettimeout() is None
    assert links[1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    link.close()
    assert links[1].recv(1) == b'', 'the end of a process is heard'
    links[1].close()
