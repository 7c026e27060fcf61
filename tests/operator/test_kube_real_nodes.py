"""The whole operator against a real API server, with pods that are real node processes.

The operator is its own process with the rights of its role. `kube_stand_in` does what the rest
of Kubernetes would. What a scale sequence moves here is data, judged by `dynamo verify`'s checker.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.operator.api_rights import install_definition
from tests.operator.api_server import MISSING, WHY_SKIPPED, ApiServer, api_server
from tests.operator.kube_real_nodes import RealNodes, real_nodes

from dynamo_client.client import DynamoClient
from dynamo_operator.kube import kinds, names

if MISSING:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

pytestmark = pytest.mark.timeout(900)  # processes on a busy machine start slowly
THREE = [f"cart-default-{at}" for at in range(3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("kube")) as running:
        install_definition(running)
        yield running


@pytest.fixture
def cart(server: ApiServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RealNodes]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with real_nodes(server, name, tmp_path) as found:
        yield found


def three_are_left(cart: RealNodes) -> None:
    assert sorted(cart.all(kinds.POD)) == THREE
    assert sorted(cart.all(kinds.CLAIM)) == [f"data-{name}" for name in THREE]
    assert [member.name for member in cart.ring.members] == THREE
    assert not cart.ring.leaving


async def test_three_to_five_to_three_under_load(cart: RealNodes) -> None:
    cart.apply()
    with cart.operator():
        await cart.until_settled(3)
        first = cart.ring.epoch
        async with cart.load() as trial:
            cart.scale(5)
            await cart.until_settled(5)
            assert cart.ring.epoch == first + 1, "both join by one ring"
            taken = cart.admin("/admin/transfers")
            for joiner in ("cart-default-3", "cart-default-4"):
                assert taken[joiner]["since_start"]["bytes"] > 0, "a joiner was given nothing"
            cart.scale(3)
            await cart.until_settled(3)
            three_are_left(cart)
            # One without the first, one that lets it go and is without the second, and the last.
            assert cart.ring.epoch == first + 4
        assert not trial.failures, trial.last_error
    ends = [pod for what, pod, _ in cart.stand_in.story if what == "ends"]
    assert ends == ["cart-default-4", "cart-default-3"], "the highest ordinal goes first"


async def test_the_operator_is_killed_while_nodes_leave(cart: RealNodes) -> None:
    """Twice: when a node has begun to leave, and when one was found drained."""
    cart.apply(replicas=5)
    with contextlib.ExitStack() as operators:
        first = operators.enter_context(cart.operator())
        await cart.until_settled(5)
        async with cart.load() as trial:
            cart.scale(3)
            await cart.until(lambda: cart.ring.leaving, "a node leaves")
            cart.gone(first)
            assert len(cart.all(kinds.POD)) == 5
            second = operators.enter_context(cart.operator())
            await cart.until(lambda: drained(cart), "a claim is marked")
            cart.gone(second)
            assert len(cart.all(kinds.CLAIM)) == 5
            operators.enter_context(cart.operator())
            await cart.until_settled(3)
            three_are_left(cart)
        assert not trial.failures, trial.last_error


def drained(cart: RealNodes) -> list[str]:
    """The claims that may go, for others have what is on them."""
    return [
        name
        for name, claim in cart.all(kinds.CLAIM).items()
        if names.DRAINED_EPOCH in claim["metadata"].get("annotations", {})
    ]


async def test_another_image_one_pod_after_the_other(cart: RealNodes) -> None:
    cart.apply()
    with cart.operator():
        await cart.until_settled(3)
        pods, claims, disks = cart.uids(kinds.POD), cart.uids(kinds.CLAIM), cart.disks()
        epoch, begun = cart.ring.epoch, len(cart.stand_in.story)
        async with cart.load() as trial:
            cart.edit(image="dynamo-node:next")
            await cart.until(
                lambda: not set(pods.values()) & set(cart.uids(kinds.POD).values()),
                "all pods are others",
            )
            await cart.until_settled(3)
        assert not trial.failures, trial.last_error
        assert {pod["spec"]["containers"][0]["image"] for pod in cart.all(kinds.POD).values()} == {
            "dynamo-node:next"
        }
        assert (cart.uids(kinds.CLAIM), cart.disks()) == (claims, disks), "each has its own disk"
        assert cart.ring.epoch == epoch
    told = cart.stand_in.story[begun:]
    turns = [told[at : at + 3] for at in range(0, len(told), 3)]
    for turn in turns:
        assert [what for what, _, _ in turn] == ["ends", "starts", "ready"], told
        assert len({pod for _, pod, _ in turn}) == 1, told
    assert sorted(turn[0][1] for turn in turns) == THREE


async def test_a_lost_volume_is_replaced_and_its_node_rebuilt(cart: RealNodes) -> None:
    cart.apply()
    with cart.operator():
        await cart.until_settled(3)
        claims, disks = cart.uids(kinds.CLAIM), cart.disks()
        async with cart.load():
            cart.stand_in.lose("cart-default-1")
            await cart.until(
                lambda: (
                    cart.uids(kinds.CLAIM).get("data-cart-default-1")
                    not in (None, claims["data-cart-default-1"])
                ),
                "the claim is another one",
            )
            await cart.until_settled(3)
        after = cart.disks()
        changed = {name for name in after if after[name] != disks[name]}
        assert changed == {"cart-default-1"}
        assert {m.name: m.number for m in cart.ring.members} == dict(
            zip(THREE, (1, 2, 3), strict=True)
        )


async def test_a_namesake_takes_the_disks_over_and_by_its_wish_all_goes(cart: RealNodes) -> None:
    """Both deletions while no operator runs: they are the garbage collector's."""
    cart.apply()
    with cart.operator() as operator:
        await cart.until_settled(3)
        async with DynamoClient(cart.urls()) as kv:
            await kv.put("kept", b"for ever")
        claims, disks = cart.uids(kinds.CLAIM), cart.disks()
        cart.gone(operator)
    cart.delete()
    lasting = {("Secret", "cart-identity"), ("ConfigMap", "cart-ring")}
    lasting |= {("PersistentVolumeClaim", name) for name in claims}
    await cart.until(lambda: cart.left() == lasting, "only what has no owner is left")
    cart.apply(storage={"size": "1Gi", "whenDeleted": "Delete"})
    with cart.operator() as operator:
        await cart.until_settled(3)
        assert (cart.uids(kinds.CLAIM), cart.disks()) == (claims, disks)
        async with DynamoClient(cart.urls()) as kv:
            assert (await kv.get("kept")).value == b"for ever"
        cart.gone(operator)
    cart.delete()
    await cart.until(lambda: not cart.left(), "nothing is left")
    assert not any(process.alive for process in cart.stand_in.processes.values())
