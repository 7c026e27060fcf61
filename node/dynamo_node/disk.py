"""Disk: who this disk belongs to, and what must survive a restart beside the data.

Owns the metadata family: format, cluster, node name and disk id; the highest
ring; the lease of births and the marker of a clean shutdown; leases granted to
other nodes. A disk of another cluster, another node or a newer format is
refused before anything is written to it.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import Final

from dynamo_core.actors import INCARNATION_BYTES
from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.ring import Ring
from dynamo_node import meta
from dynamo_node.config import BUFFERED, Config
from dynamo_node.opening import StorageError
from dynamo_node.outside import REAL, Outside
from dynamo_node.standing import COUNTS_KEY
from dynamo_node.storage import FAMILIES, META, UNREAD, Store, Unread

FORMAT: Final = 1
_FORMAT_KEY: Final = b"format"
_RING_KEY: Final = b"ring"
_LEASE_KEY: Final = b"lease"
_CLEAN_KEY: Final = b"clean"
_BOOT_KEY: Final = b"boot"
_GRANT_PREFIX: Final = b"grant/"
_LEASE: Final = Struct(">8sI")
_CLEAN: Final = Struct(">8sIIQ")


@dataclass(frozen=True, slots=True)
class Clean:
    """What a clean shutdown left: births below `next_birth` are used, `keys` is exact."""

    incarnation: bytes
    next_birth: int
    lease_end: int
    keys: int


class Disk:
    """An open store that is known to be this node's; see `open_disk`."""

    def __init__(self, store: Store, disk_id: str, fresh: bool) -> None:
        self.store = store
        self.disk_id = disk_id
        self.fresh = fresh
        """Formatted by this very start."""

    async def take_clean_marker(self) -> Clean | None:
        """The marker of a clean shutdown, removed durably: it is good for one start only."""
        data = self._get(_CLEAN_KEY)
        if data is None:
            return None
        self.store.delete(META, _CLEAN_KEY)
        await self.store.durable()
        if len(data) != _CLEAN.size or self.store.fell_behind:
            return None
        return Clean(*_CLEAN.unpack(data))

    async def close_cleanly(self, clean: Clean) -> None:
        """Leave the marker behind everything else and close."""
        await self.store.durable()
        self.store.put(
            META,
            _CLEAN_KEY,
            _CLEAN.pack(clean.incarnation, clean.next_birth, clean.lease_end, clean.keys),
        )
        await self.store.close()

    def put_lease(self, incarnation: bytes, lease_end: int) -> None:
        """Note a lease of births; it holds once a commit that follows is durable."""
        self.store.put(META, _LEASE_KEY, _LEASE.pack(incarnation, lease_end))

    def ring(self) -> Ring | None:
        """The highest ring that this disk has seen."""
        data = self._get(_RING_KEY)
        if data is None:
            return None
        try:
            return Ring.from_bytes(data)
        except CallerError as error:
            raise Corrupt(f"the ring on disk can't be read: {error}") from error

    def standing(self) -> bytes | None:
        """What `standing` keeps of this disk."""
        return self._get(COUNTS_KEY)

    def lost_writes(self, clean: bool, boot: str) -> bool:
        """Whether acknowledged writes may be gone: `buffered`, and the machine went down since.

        `boot` names the present boot; where the kernel doesn't tell, another is assumed.
        """
        data = self._get(_BOOT_KEY)
        if data is None or clean:
            return False
        durability, _, last = data.decode(errors="replace").partition(" ")
        return durability == BUFFERED and (not boot or last != boot)

    async def keep_boot(self, boot: str, durability: str) -> None:
        """Note durably what `lost_writes` of the next start needs to know."""
        self.store.put(META, _BOOT_KEY, f"{durability} {boot}".encode())
        await self.store.durable()

    async def keep_ring(self, ring: Ring) -> None:
        """Make `ring` durable, before its publisher is told that it is held here."""
        self.store.put(META, _RING_KEY, ring.to_bytes())
        await self.store.durable()

    async def granted(self, number: int, incarnation: bytes) -> int:
        """The highest lease end ever granted to that incarnation of node `number`, else 0."""
        data = await meta.read(self.store, _grant_key(number, incarnation))
        return 0 if data is None else int.from_bytes(data, "big")

    async def grant(self, number: int, incarnation: bytes, lease_end: int) -> None:
        """Note a grant durably; only then may it be said.

        Each incarnation keeps its own note, also when another one follows: a volume
        that is rolled back asks for an old one.
        """
        highest = max(lease_end, await self.granted(number, incarnation))
        self.store.put(META, _grant_key(number, incarnation), highest.to_bytes(4, "big"))
        await self.store.durable()

    def _get(self, key: bytes) -> bytes | None:
        value = self.store.peek(META, key)
        if isinstance(value, Unread):
            found = self.store.scan(META, key, key + b"\x00", 1)
            return found[0][1] if found else None
        return value


def _grant_key(number: int, incarnation: bytes) -> bytes:
    return _GRANT_PREFIX + number.to_bytes(4, "big") + incarnation


async def open_disk(config: Config, outside: Outside = REAL, create: bool = True) -> Disk:
    """Open the node's disk, or format an empty one if `create` allows it.

    Raises CallerError for a disk that is not this node's, StorageError for one
    that doesn't work.
    """
    store = outside.open_store(config, create)
    try:
        return await _identified(store, config, outside)
    except BaseException:
        with suppress(StorageError):  # what failed first is told
            await store.close()
        raise


async def _identified(store: Store, config: Config, outside: Outside) -> Disk:
    path = config.data_dir
    data = store.peek(META, _FORMAT_KEY)
    if data is UNREAD:
        found = store.scan(META, _FORMAT_KEY, _FORMAT_KEY + b"\x00", 1)
        data = found[0][1] if found else None
    if data is None:
        held = [f for f in FAMILIES if store.scan(f, b"", b"\xff" * 64, 1)]
        if held:
            raise CallerError(
                f"{path} holds {' and '.join(held)}, but not the record that says whose disk it "
                "is; nothing was changed on it: name another data_dir, or move this one away"
            )
        disk_id = outside.random_bytes(16).hex()
        facts = {
            "format": FORMAT,
            "cluster_id": config.cluster_id.hex(),
            "name": config.name,
            "disk_id": disk_id,
        }
        store.put(META, _FORMAT_KEY, json.dumps(facts).encode())
        await store.durable()
        return Disk(store, disk_id, fresh=True)
    assert isinstance(data, bytes)
    try:
        facts = json.loads(data)
        disk_format, cluster_id = int(facts["format"]), str(facts["cluster_id"])
        name, disk_id = str(facts["name"]), str(facts["disk_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CallerError(
            f"{path}: the record that says whose disk it is can't be read ({error!r}): it holds "
            f"{data[:60]!r}; it should be JSON with format, cluster_id, name and disk_id. Nothing "
            "was changed on it: move it away and start again, and the node rebuilds itself"
        ) from error
    if not 1 <= disk_format <= FORMAT:
        raise CallerError(
            f"{path} has disk format {disk_format}; this version reads 1..{FORMAT}: start the "
            "version again that wrote it; nothing was changed on it"
        )
    if cluster_id != config.cluster_id.hex():
        raise CallerError(
            f"{path} is a disk of cluster {cluster_id}, but this node is of "
            f"{config.cluster_id.hex()}; nothing was changed on it"
        )
    if name != config.name:
        raise CallerError(
            f"{path} is the disk of node {name!r}, but this is {config.name!r}; "
            "nothing was changed on it"
        )
    return Disk(store, disk_id, fresh=False)


def new_incarnation(outside: Outside = REAL) -> bytes:
    """64 random bits."""
    return outside.random_bytes(INCARNATION_BYTES)
