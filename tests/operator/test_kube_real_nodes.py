"""The whole operator against a real API server, with pods that are real node processes.

The operator is its own process with the rights of its role. `kube_stand_in` does what the rest
of Kubernetes would. What a scale sequence moves here is data, judged by `dynamo verify`'s checker.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.operator.api_rights import install_definition
from tests.operator.api_server import MISSING, WHY_SKIPPED, ApiServer, api_server
from tests.operator.kube_real_nodes import RealNodes, real_nodes

from dynamo_operator.kube import kinds

if MISSING:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

pytestmark = pytest.mark.timeout(600)
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
