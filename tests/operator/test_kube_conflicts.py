"""Somebody is faster, an answer is lost, the server refuses: the next pass goes on from there."""

import contextlib

import pytest
from tests.operator.kube_acts import mark, settled, storage
from tests.operator.kube_objects import OWNER
from tests.operator.kube_play import Play
from tests.operator.kube_values import world
from tests.operator.kube_world import KubeWorld

from dynamo_operator.kube import kinds
from dynamo_operator.kube.carrying import Carrier
from dynamo_operator.kube.errors import KubeError
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.kube_steps import Annotate, MakeToken, Own
from dynamo_operator.kube.observing import Sight
from dynamo_operator.kube.status import Facts
from dynamo_operator.kube.telling import Teller

LAST = "cart-default-3"
WRITES = [
    ("patch", kinds.CONFIG_MAP, "cart-ring"),  # the ring without it, the spec, the settled ring
    ("patch", kinds.CLAIM, f"data-{LAST}"),  # its mark
    ("patch", kinds.STATEFUL_SET, "cart-default"),  # replicas
    ("delete", kinds.CLAIM, f"data-{LAST}"),
]


async def _on(play: Play) -> None:
    """One pass, whatever comes of it."""
    with contextlib.suppress(KubeError):
        await play.turn()
    ring, set_ = play.ring, play.set()
    named = ring is not None and ring.node_named(LAST) is not None
    there = f"data-{LAST}" in play.claims()
    if named:
        assert set_["spec"]["replicas"] == 4
        assert there
        assert mark(play, LAST) is None
    if set_["spec"]["replicas"] == 4 and not named:
        assert there
    play.check()


@pytest.mark.parametrize(("verb", "kind", "name"), WRITES, ids=[f"{v}-{n}" for v, _, n in WRITES])
@pytest.mark.parametrize("how", ["conflict", "lost answer", "refused"])
async def test_a_scale_down_whose_writes_fail(
    verb: str, kind: kinds.Kind, name: str, how: str
) -> None:
    code, reason = {"conflict": (409, "Conflict"), "refused": (422, "Invalid")}.get(
        how, (500, "InternalError")
    )
    async with settled(replicas=4) as play:
        after = how == "lost answer"
        play.world.fail(verb, kind, name, code=code, reason=reason, times=3, after=after)
        play.edit({"replicas": 3})
        for _ in range(14):
            await _on(play)
        assert play.world.faults[0].times < 3, "it was met"
        play.world.mend()
        await play.until_settled()
        assert play.pods() == [f"cart-default-{i}" for i in range(3)]
        assert play.claims() == [f"data-cart-default-{i}" for i in range(3)]


async def test_no_mark_no_lowering() -> None:
    async with settled(replicas=4) as play:
        play.world.fail("patch", kinds.CLAIM, code=409, reason="Conflict", times=99)
        play.edit({"replicas": 3})
        for _ in range(8):
            await play.turn()
        assert play.set()["spec"]["replicas"] == 4
        assert mark(play, LAST) is None


async def test_no_unmarking_no_joining() -> None:
    async with settled(replicas=4, storage=storage(whenScaled="Retain")) as play:
        play.edit({"replicas": 3})
        await play.until_settled()
        play.world.fail("patch", kinds.CLAIM, code=409, reason="Conflict", times=99)
        play.edit({"replicas": 4})
        for _ in range(8):
            await play.turn()
        ring = play.ring
        assert ring is not None
        assert ring.node_named(LAST) is None
        play.world.mend()
        await play.until_settled()
        assert len(play.pods()) == 4


async def test_a_claim_that_changed_since_it_was_seen_is_not_deleted() -> None:
    """Somebody wants its node back, and another operator has taken the mark off already."""
    async with settled(replicas=4) as play:
        play.edit({"replicas": 3})
        await play.until(lambda: play.set()["spec"]["replicas"] == 3)
        asked, met = play.world._fault, []  # looks at each request before it is answered

        def meanwhile(request):  # type: ignore[no-untyped-def]
            if (request.verb, request.kind) == ("delete", kinds.CLAIM) and not met:
                met.append(request)
                gone = {"metadata": {"annotations": {"dynamocluster.io/drained-epoch": None}}}
                play.world.edit(kinds.CLAIM, "shop", f"data-{LAST}", gone)
            return asked(request)

        play.world._fault = meanwhile
        await play.turn()
        await play.turn()
        assert f"data-{LAST}" in play.claims()
        assert [one.code for one in met] == [409]


async def test_the_second_change_of_an_object_ends_the_pass() -> None:
    """What follows it may rely on it: here a ring on a mark that is gone."""
    async with KubeWorld().serving() as server:
        metadata = {"name": "data-cart-default-0", "namespace": "shop"}
        held = server.add({"kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {}})
        seen, at = world(), held["metadata"]
        place = ("PersistentVolumeClaim", at["name"], at["uid"], at["resourceVersion"])
        steps = (
            Own(*place, True, ({"uid": "u1", "kind": "ConfigMap", "name": "x"},)),
            Annotate(*place, (("a", "b"),), "a mark"),
            MakeToken(),
        )
        api = server.api()
        carrier = Carrier(api, Teller(api, OWNER), None, {})
        sight = Sight(seen, Facts({}, {}), {}, "", {}, ())
        await carrier.carry_out(KubePlan(seen.cluster, steps, True), sight)
        assert [str(one) for one in server.writes()] == [f"patch {place[0]} {place[1]}"]
        now = server.find(kinds.CLAIM, "shop", at["name"])
        assert now is not None
        assert "annotations" not in now["metadata"]
