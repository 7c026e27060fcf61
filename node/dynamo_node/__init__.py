"""The storage node: an asyncio shell around the pure core.

Owns the clock, the sockets, the disk and the randomness that the core must not
know. One door each: `storage` to RocksDB, `links` and `inbound` to other
nodes, `http` to clients, `admin` to operators.
"""

__version__ = "0.1.0"
