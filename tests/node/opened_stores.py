"""Stores whose RocksDB a test holds up or lets fail, and what their waiters are told."""

import asyncio
from collections.abc import Callable

from tests.node.hooked_rocksdb import HookedRocksDB

from dynamo_node.storage import Store

Opener = Callable[..., tuple[Store, HookedRocksDB]]


class Told:
    """Collects what `commit` tells its waiters, in order."""

    def __init__(self) -> None:
        self.order: list[tuple[str, BaseException | None]] = []

    def waiter(self, name: str) -> Callable[[BaseException | None], None]:
        return lambda error: self.order.append((name, error))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.order]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread's progress is polled
            await asyncio.sleep(0.001)
