"""A node's native port for tests, in the test's own loop; it answers as it is told.

The handshake is the core's own accepting side, so that only what the client
does with a node's answers and silences is made up here.
"""

import asyncio
import os
from collections.abc import Callable

from bench.ports import free_ports

from dynamo_core.contexts import Keyring
from dynamo_core.errors import CallerError
from dynamo_core.frames import FRAME_BYTES_MAX, NO_DEADLINE, Frame, FrameReader, pack_frame
from dynamo_core.handshake import Acceptor, Identity
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.ring import Ring
from dynamo_core.wire import Operation, Type, pack_outcome, unpack_operation

CLUSTER_ID = "c0ffee" + "0" * 26


class NativeNode:
    """One listening port. `answer(operation)` gives the outcome; None is silence."""

    def __init__(self, name: str, cluster_id: str = CLUSTER_ID) -> None:
        self.name = name
        self.cluster_id = cluster_id
        (self.port,) = free_ports(1)
        self.ring: Ring | None = None
        self.operations: list[Operation] = []
        self.remaining_ms: list[int] = []
        self.chunks = 0  # reads that carried operations
        self.rings_asked = 0
        self.welcomes = True
        self.answer: Callable[[Operation], Outcome | None] = lambda operation: Outcome(
            Kind.WRITTEN, "context", primary=2
        )
        self.raw: Callable[[Frame], bytes] | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def frame(self, kind: int, payload: bytes, request_id: int = 0) -> bytes:
        name = self.ring.name if self.ring else (0, bytes(16))
        return pack_frame(kind, request_id, NO_DEADLINE, name, payload)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        frames = FrameReader(FRAME_BYTES_MAX)
        try:
            while data := await reader.read(1 << 20):
                found = frames.feed(data)
                self.chunks += any(frame.type == Type.OPERATION for frame in found)
                for frame in found:
                    writer.write(self._reply(frame))
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _reply(self, frame: Frame) -> bytes:
        if frame.type == Type.HELLO:
            me = Identity(
                bytes.fromhex(self.cluster_id),
                self.name,
                1,
                b"incarnat",
                Keyring(1, {1: bytes(32)}),
            )
            try:
                challenge = Acceptor(me, os.urandom(16), lambda n, name, i: False).hello(
                    frame.payload
                )
            except CallerError as error:
                return self.frame(Type.REFUSED, str(error).encode())
            said = self.frame(Type.CHALLENGE, challenge)
            return said + self.frame(Type.WELCOME, b"") if self.welcomes else b""
        if frame.type == Type.CLUSTER:
            self.rings_asked += 1
            return self.frame(
                Type.CLUSTER_REPLY, self.ring.to_bytes() if self.ring else b"", frame.request_id
            )
        if self.raw is not None:
            return self.raw(frame)
        operation = unpack_operation(frame.payload)
        self.operations.append(operation)
        self.remaining_ms.append(frame.remaining_ms)
        outcome = self.answer(operation)
        if outcome is None:
            return b""
        return self.frame(Type.OPERATION_REPLY, pack_outcome(outcome), frame.request_id)
