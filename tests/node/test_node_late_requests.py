"""Requests that a node reads only after their callers have given them up."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.node.node_processes import Cluster, path_of, running, until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(Path(tmp_path_factory.mktemp("late"))) as made:
        yield made


def test_a_delete_whose_caller_has_gone_deletes_nothing_of_later(cluster: Cluster) -> None:
    """A delete without a context covers what is read for it: read late, that is what others
    wrote after its caller had given it up, and had deleted by way of another node."""
    one, other, late = cluster.nodes
    key = b"late"
    late.pause()
    try:
        assert one.put(key, b"before").status == 204
        with closing(socket.create_connection(("127.0.0.1", late.http_port))) as caller:
            head = f"DELETE {path_of(key)} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n"
            caller.sendall(head.encode())
        assert other.delete(key).status == 204
        assert one.put(key, b"after").status == 204
    finally:
        late.resume()
    late.wait_ready()
    until(lambda: late.get(key).status == 200, "it is up to date")
    assert one.values(key) == other.values(key) == late.values(key) == {b"after"}
