"""A person's word gives a node up: the life that was meant, once, and never the last copy."""

from tests.operator.kube_acts import (
    _ready,
    claim,
    events,
    machine_of,
    mark,
    power_off,
    power_on,
    settled,
)
from tests.operator.kube_play import Play

from dynamo_operator.kube import kinds

LAST = "cart-default-3"


def incarnation(play: Play, pod: str) -> str:
    return next(one["incarnation"] for one in play.status["nodes"] if one["name"] == pod)


def names_it(play: Play, pod: str) -> bool:
    ring = play.ring
    return ring is not None and ring.node_named(pod) is not None


async def turns(play: Play, count: int = 4) -> None:
    for _ in range(count):
        await play.turn()


async def test_a_dead_node_is_given_up_by_its_life() -> None:
    async with settled(replicas=4) as play:
        word = f"{LAST}@{incarnation(play, LAST)}"
        await power_off(play, machine_of(play, LAST))
        play.annotate(give_up=f"{LAST}@0123456789abcdef, cart-default-1@, {LAST}, nonsense")
        await turns(play)
        assert names_it(play, LAST)
        play.annotate(give_up=word)
        await play.until(lambda: not names_it(play, LAST))
        assert [entry.event for entry in play.ring.history if entry.name == LAST][-1] == "given-up"  # type: ignore[union-attr]
        assert mark(play, LAST) is None, "nobody has proven that its data is elsewhere"
        assert play.condition("Available")[0] == "True"


async def test_a_dead_leaver_is_released_and_its_claim_stays() -> None:
    async with settled(replicas=4) as play:
        play.speed = 0
        play.edit({"replicas": 3})
        await play.until(lambda: play.ring is not None and play.ring.leaving)
        word = f"{LAST}@{incarnation(play, LAST)}"
        machine = machine_of(play, LAST)
        await power_off(play, machine)
        play.speed = 10_000
        await turns(play, 6)
        assert names_it(play, LAST)
        assert LAST in play.condition("Progressing")[2]
        play.annotate(give_up=word)
        await play.until(lambda: play.set()["spec"]["replicas"] == 3)
        assert not names_it(play, LAST)
        power_on(play, machine)
        await play.until_settled()
        assert claim(play, LAST), "whenScaled is Delete, and it isn't drained"
        assert mark(play, LAST) is None
        assert play.pods() == [f"cart-default-{i}" for i in range(3)]


async def test_a_node_that_answers_is_not_given_up() -> None:
    """Its kubelet is dead, and clients reach it."""
    async with settled(replicas=4) as play:
        _ready(play, machine_of(play, LAST), "Unknown")
        play.annotate(give_up=f"{LAST}@{incarnation(play, LAST)}")
        await turns(play)
        assert names_it(play, LAST)
        status, _, text = play.condition("Blocked")
        assert status == "True"
        assert f"{LAST} runs" in text


async def test_nodes_that_cannot_be_seen_are_given_up_when_their_pods_terminate() -> None:
    """A role of one namespace sees no Nodes: Kubernetes' own word on the pod has to do."""
    async with settled(replicas=4) as play:
        play.world.grant(cluster_wide=False)
        word = f"{LAST}@{incarnation(play, LAST)}"
        await power_off(play, machine_of(play, LAST))
        play.annotate(give_up=word)
        await turns(play)
        assert names_it(play, LAST), "nobody says that it is down"
        play.world.remove(kinds.POD, "shop", LAST)  # by the taint manager, after five minutes
        await play.until(lambda: not names_it(play, LAST))


async def test_no_replica_is_given_up_without_another_one() -> None:
    async with settled(replicas=3) as play:
        word = f"cart-default-2@{incarnation(play, 'cart-default-2')}"
        await power_off(play, machine_of(play, "cart-default-2"))
        play.annotate(give_up=word)
        await turns(play)
        assert names_it(play, "cart-default-2")
        assert "scale up first" in play.condition("Blocked")[2]
        assert any("scale up first" in note for note in events(play, "Blocked"))


async def test_nor_while_another_one_is_not_whole() -> None:
    async with settled(replicas=5) as play:
        word = f"{LAST}@{incarnation(play, LAST)}"
        play.nodes["cart-default-1"].state = "recovering"
        await power_off(play, machine_of(play, LAST))
        play.annotate(give_up=word)
        await turns(play)
        assert names_it(play, LAST)
        assert "cart-default-1 is down or recovering" in play.condition("Blocked")[2]
        play.nodes["cart-default-1"].state = "up"
        await play.until(lambda: not names_it(play, LAST))


async def test_a_word_is_good_for_once() -> None:
    """It was only cut off, and is a member again in the same life; then it is cut off again."""
    async with settled(replicas=5) as play:
        node, machine = play.nodes[LAST], machine_of(play, LAST)
        word = f"{LAST}@{incarnation(play, LAST)}"

        async def cut_off() -> None:
            _ready(play, machine, "Unknown")
            assert node.runner is not None
            await node.runner.cleanup()
            node.runner = None

        await cut_off()
        play.annotate(give_up=word)
        await play.until(lambda: not names_it(play, LAST))
        _ready(play, machine, "True")
        node.disk.ring = None
        await play._serve(node)
        await play.until(lambda: names_it(play, LAST))
        await play.until_settled()
        assert incarnation(play, LAST) == node.incarnation
        await cut_off()
        await turns(play, 6)
        assert names_it(play, LAST), "nobody has said anything about that"
