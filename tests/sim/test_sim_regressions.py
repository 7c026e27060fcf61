"""What simulated runs have shown, each as small as it could be made (docs/simulator.md)."""

import asyncio

import pytest

from dynamo_core.contexts import Keyring
from dynamo_core.frames import NO_RING
from dynamo_core.handshake import Identity
from dynamo_core.ring import Member
from dynamo_core.wire import Type
from dynamo_node.links import Link


async def test_a_question_is_cancelled_even_as_its_reply_comes() -> None:
    # Seed 20032: a store failed while a reply came in, and the node never ended.
    me = Identity(b"c" * 16, "me", 1, b"incarn-1", Keyring(1, {1: b"k" * 32}))
    member = Member(2, "peer", "", "1", "127.0.0.1", 1, 1, 1, "0" * 32)
    link = Link(member, lambda: me, lambda: NO_RING, 1.0)
    asking = asyncio.ensure_future(link.ask(Type.PING, b"", 5.0))
    await asyncio.sleep(0)  # asked: without a connection the reply LOST comes next
    await asyncio.sleep(0)  # and has come, in the tick of this very step
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
