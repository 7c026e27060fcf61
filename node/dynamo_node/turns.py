"""Turns: one key at a time (design: merges of one key are serialised).

Owns the order in which those who want the same record get it: what memory can
answer is answered at once, what has to be read from disk holds back everybody
who asks for it meanwhile, and each sees what the one before has written. Of a store
that has failed everybody is told, in no order.
"""

from collections.abc import Callable
from typing import TypeAlias

from dynamo_node.opening import StorageError
from dynamo_node.storage import Store, Unread

WithValue: TypeAlias = Callable[[bytes | None], None]
Failed: TypeAlias = Callable[[StorageError], None]


class Turns:
    """One per store."""

    __slots__ = ("_emptied", "_loading", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loading: dict[tuple[str, bytes], list[tuple[WithValue, Failed]]] = {}
        self._emptied: set[tuple[str, bytes]] = set()

    def take(self, family: str, place: bytes, then: WithValue, failed: Failed) -> None:
        """Call `then` with what is stored, after everybody who asked before.

        Or `failed`, when the store has. A store that fails while it loads tells nobody.
        """
        waiting = self._loading.get((family, place)) if self._loading else None
        if waiting is not None:
            waiting.append((then, failed))
            return
        try:
            value = self._store.peek(family, place)
        except StorageError as error:
            failed(error)
            return
        if isinstance(value, Unread):
            self._loading[family, place] = [(then, failed)]
            self._store.load(family, place, lambda found: self._loaded(family, place, found))
            return
        then(value)

    def emptied(self, family: str, start: bytes, end: bytes) -> None:
        """All of start <= place < end was deleted: what is being read there is no more."""
        self._emptied.update(at for at in self._loading if at[0] == family and start <= at[1] < end)

    def _loaded(self, family: str, place: bytes, found: bytes | None) -> None:
        waiting = self._loading.pop((family, place))
        if self._emptied and (family, place) in self._emptied:
            self._emptied.discard((family, place))
            found = None
        for then, failed in waiting:
            # The one before may have written: the batch knows better than the disk.
            try:
                value = self._store.peek(family, place)
            except StorageError as error:
                failed(error)
                continue
            then(found if isinstance(value, Unread) else value)
