"""Operators that die, overlap and lose answers: the end is the same, and nothing is lost.

Design, section 7, schedule 25. `DYNAMO_TEST_CRASHES=all` has one operator die after each write
in turn with one that lives after it, too; else each operator has so short a life that all of
these states come up in one play, and not every schedule meets every way to die.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.operator.kube_direct import Died, direct_api
from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import kinds
from dynamo_operator.kube.errors import KubeError

LIVES_MAX = 400
BEGIN: dict[str, dict[str, Any]] = {
    "create": {},
    "scale-up": {"replicas": 3},
    "scale-down": {"replicas": 5},
    "roll": {"replicas": 3},
    "all at once": {"replicas": 4},
}
EDITS: dict[str, dict[str, Any]] = {
    "create": {},
    "scale-up": {"replicas": 5},
    "scale-down": {"replicas": 3},
    "roll": {"image": "dynamo-node:2"},
    "all at once": {"replicas": 3, "image": "dynamo-node:2", "quorum": {"r": 1}},
}
ALL = bool(os.environ.get("DYNAMO_TEST_CRASHES"))
SOME = list(EDITS) if ALL else ["create", "all at once"]


async def begin(play: Play, what: str) -> None:
    if BEGIN[what]:
        play.apply(**BEGIN[what])
        await play.until_settled()
        play.edit(EDITS[what])
    else:
        play.apply()
    play.unready_most = 0


def end(play: Play) -> dict[str, Any]:
    """What must come of it, however it came about."""
    ring = play.ring
    assert ring is not None
    configs = [one["metadata"]["name"] for one in play.world.all(kinds.CONFIG_MAP, "shop")]
    pods = play.world.all(kinds.POD, "shop")
    return {
        "epoch": ring.epoch,
        "members": [member.name for member in ring.members],
        "leaving": ring.leaving,
        "images": {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in pods},
        "claims": play.claims(),
        "configurations": sorted(configs),
        "replicas": play.set()["spec"]["replicas"],
        "template": play.set()["spec"]["template"]["metadata"],
        "settings": sorted(str(node.settings) for node in play.nodes.values()),
        "conditions": {c["type"]: c["status"] for c in play.status["conditions"]},
        "secrets": [one["metadata"]["name"] for one in play.world.all(kinds.SECRET, "shop")],
    }


def safe(play: Play, what: str) -> None:
    play.check()
    if what == "roll":
        assert play.unready_most <= 1, "two pods at once"


_ENDS: dict[str, dict[str, Any]] = {}


async def wanted(what: str) -> dict[str, Any]:
    if what not in _ENDS:
        async with playing() as play:
            await begin(play, what)
            await play.until_settled()
            _ENDS[what] = end(play)
    return _ENDS[what]


@pytest.mark.parametrize(
    ("what", "dies_after", "lost"),
    [*((what, 1, True) for what in (*SOME, "roll")), ("scale-down", 2, False)],
)
async def test_short_lived_operators_come_to_the_same_end(
    what: str, dies_after: int, lost: bool
) -> None:
    async with playing() as play:
        await begin(play, what)
        for _ in range(LIVES_MAX):
            api, play.mortal = direct_api(play.world, dies_after=dies_after, lost=lost)
            try:
                while await play.turn(api) != float("inf"):
                    safe(play, what)
                break
            except Died:
                safe(play, what)
        else:
            raise AssertionError(f"it does not come to an end: {play.status}")
        play.mortal = None
        await play.until_settled()
        safe(play, what)
        assert end(play) == await wanted(what)


@pytest.mark.skipif(not ALL, reason="takes minutes")
@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("lost", [True, False])
async def test_one_dies_after_each_write_in_turn(what: str, lost: bool) -> None:
    for dies_after in range(1, LIVES_MAX):
        async with playing() as play:
            await begin(play, what)
            api, play.mortal = direct_api(play.world, dies_after=dies_after, lost=lost)
            try:
                while await play.turn(api) != float("inf"):
                    safe(play, what)
                return
            except Died:
                play.mortal = None
            await play.until_settled()
            safe(play, what)
            assert end(play) == await wanted(what), dies_after


@pytest.mark.parametrize("what", SOME)
async def test_answers_are_lost(what: str) -> None:
    """Every third write is carried out, and the operator hears of an error."""
    async with playing() as play:
        await begin(play, what)
        for count in range(LIVES_MAX):
            play.world.mend()
            for verb in ("create", "patch", "apply", "delete", "evict"):
                play.world.fail(verb, code=500, after=count % 2 == 0)
            try:
                if await play.turn() == float("inf"):
                    break
            except KubeError:
                pass
            safe(play, what)
        play.world.mend()
        await play.until_settled()
        assert end(play) == await wanted(what)


async def _stale(play: Play, what: str, later: int) -> None:
    """One operator acts by what it saw `later` passes of another one ago."""
    await begin(play, what)
    slow, _ = direct_api(play.world)
    for _ in range(LIVES_MAX):
        act = await play.look(slow)
        pauses = [await play.turn() for _ in range(later)]
        safe(play, what)
        await _tolerant(act)
        safe(play, what)
        if pauses[0] == float("inf"):
            return


async def _tolerant(act: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(KubeError):
        await act()


@pytest.mark.parametrize(
    ("what", "later"), [*((what, 1) for what in SOME), ("roll", 3), ("scale-down", 3)]
)
async def test_an_operator_that_was_asleep_wakes_and_acts(what: str, later: int) -> None:
    async with playing() as play:
        await _stale(play, what, later)
        await play.until_settled()
        assert end(play) == await wanted(what)


async def test_one_that_was_asleep_does_not_overwrite_the_decided_ring() -> None:
    """It would have decided another one, of the same epoch."""
    async with playing() as play:
        play.apply()
        await play.until_settled()
        play.edit({"replicas": 4})
        await play.until(lambda: "cart-default-3" in play.nodes)
        act = await play.look(direct_api(play.world)[0])
        play.edit({"replicas": 5})
        await play.until(lambda: play.ring and play.ring.epoch == 2)
        decided = play.ring
        await _tolerant(act)
        assert play.ring == decided
        await play.until_settled()
        assert len(play.ring.members) == 5


@pytest.mark.parametrize("what", SOME)
async def test_two_operators_at_once(what: str) -> None:
    """Their requests alternate, one by one."""
    async with playing() as play:
        await begin(play, what)
        doors = [direct_api(play.world)[0] for _ in range(2)]
        for _ in range(LIVES_MAX):
            await play.settle()
            told = await asyncio.gather(
                *(play.one_pass(door) for door in doors), return_exceptions=True
            )
            for one in told:
                assert not isinstance(one, BaseException) or isinstance(one, KubeError), one
            safe(play, what)
            if told == [float("inf")] * 2:
                break
        await play.until_settled()
        assert end(play) == await wanted(what)


async def test_deletion_in_the_middle_of_anything() -> None:
    """The garbage collector's work is done by nobody else, and nothing hinders it."""
    for writes in (1, 3, 6, 9, 14, 20):
        async with playing() as play:
            play.apply()
            api, mortal = direct_api(play.world, dies_after=writes, lost=True)
            with contextlib.suppress(Died):
                for _ in range(writes):
                    await play.turn(api)
            play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
            await play.settle()
            assert mortal.dead
            left = {
                f"{kind.name} {body['metadata']['name']}"
                for kind, body in play.world.store.everything()
                if body["metadata"].get("namespace") == "shop" and kind != kinds.EVENT
            }
            kept = {"Secret cart-identity", "ConfigMap cart-ring"}
            kept |= {f"PersistentVolumeClaim data-cart-default-{n}" for n in range(3)}
            assert left <= kept, "whenDeleted: Retain keeps these"
            assert not play.pods()


async def test_deletion_behind_the_back_of_a_pass() -> None:
    async with playing() as play:
        play.apply()
        await play.turn()
        act = await play.look(direct_api(play.world)[0])
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        await play.settle()
        await _tolerant(act)
        await play.settle()
        left = {kind.name for kind, body in play.world.store.everything()
                if body["metadata"].get("namespace") == "shop" and kind != kinds.EVENT}  # fmt: skip
        assert left <= {"Secret", "ConfigMap", "PersistentVolumeClaim"}
