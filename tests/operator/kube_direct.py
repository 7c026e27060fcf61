"""An operator's door to an emulated API server without sockets, and operators that die.

The very requests of `api.Api` go to the very server of `kube_server`, without HTTP between
them: ten times faster, which is what tables of crashes and fuzzers need. An operator may be
mortal: after its k-th write it does nothing any more, with or without having heard the answer.
"""

import asyncio
import json
from typing import Any

from tests.operator.kube_patches import copied
from tests.operator.kube_rules import Failure
from tests.operator.kube_server import KubeServer

from dynamo_operator.kube.api import Api

READING = ("get", "list", "watch")


class Died(Exception):
    """The process of this operator has ended."""


class Direct:
    """What `Api` asks of its connection.

    dies_after: the write with which the operator ends, from 1; None: it lives. lost: that write
    is carried out and its answer lost; else it isn't sent any more.
    """

    def __init__(
        self, server: KubeServer, *, dies_after: int | None = None, lost: bool = False
    ) -> None:
        self._server = server
        self._dies_after = dies_after
        self._lost = lost
        self.writes = 0
        self.dead = False

    def note_write(self) -> bool:
        """Before each write, a node's too: whether it is sent. Raises Died."""
        if self.dead:
            raise Died
        self.writes += 1
        self.dead = self.writes == self._dies_after
        return not self.dead or self._lost

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str],
        body: object,
        content_type: str,
        timeout_s: float,
    ) -> tuple[int, bytes]:
        await asyncio.sleep(0)  # another operator may be faster
        if self.dead:
            raise Died
        try:
            asked = self._server.read(method, path, query, content_type, copied(body), "direct")
        except Failure as failure:  # a kind that isn't served
            return failure.code, json.dumps(failure.status).encode()
        if asked.verb not in READING and not self.note_write():
            raise Died
        try:
            answer = self._server.respond(asked, self._server.note(asked))
            code = asked.code
        except Failure as failure:
            asked.code = code = failure.code
            answer = failure.status
        if self.dead:
            raise Died
        return code, json.dumps(answer).encode()


def direct_api(server: KubeServer, **dying: Any) -> tuple[Api, Direct]:
    """An operator's door, and the life of its process."""
    connection = Direct(server, **dying)
    return Api(connection), connection  # type: ignore[arg-type]
