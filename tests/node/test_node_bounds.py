"""What a client may make a node hold: frames and bodies are bounded in size and time."""

import contextlib
import socket
from collections.abc import Callable

from tests.node.node_processes import Cluster

from dynamo_core.frames import HEADER, LENGTH_BYTES, NO_DEADLINE, NO_RING, pack_frame
from dynamo_core.handshake import ROLE_CLIENT, Hello, pack_hello
from dynamo_core.wire import PROTOCOL_VERSION, Type


def test_a_body_that_trickles_is_ended(make_cluster: Callable[..., Cluster]) -> None:
    node = make_cluster(1, replication=1, quorum={"r": 1, "w": 1}, timing={"body_ms": 200}).nodes[0]
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=10) as client:
        client.sendall(b"PUT /kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:dynamo:problem:too-slow" in answer
    assert node.get(b"slow").status == 404


def test_a_native_client_may_not_announce_more_than_a_write(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    hello = Hello(
        PROTOCOL_VERSION, ROLE_CLIENT, bytes(16), 0, bytes(8), b"n" * 16, "stranger", "", 0
    )
    with socket.create_connection(("127.0.0.1", node.native_port), timeout=10) as client:
        client.sendall(pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, pack_hello(hello)))
        for _ in (Type.CHALLENGE, Type.WELCOME):
            head = client.recv(LENGTH_BYTES, socket.MSG_WAITALL)
            client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        announced = HEADER.pack(32 << 20, Type.OPERATION, 0, 1, 1000, 0, bytes(16))
        client.sendall(announced)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert node.http("GET", "/healthz").status == 200
