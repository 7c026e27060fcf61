"""The pure core of the store: what is decided, never how it is carried out.

Owns versions, objects, ring, placement, quorum, hash tree, failure detection
and the encoding of messages. Forbidden in every module here: asyncio, sockets,
files, clocks, randomness and threads; `now`, ids and random bytes are passed
in by the caller, so that the same inputs always give the same outputs.
"""
