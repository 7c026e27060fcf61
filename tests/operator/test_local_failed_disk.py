"""What the local operator makes of a real node whose disk fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.ports import free_ports
from tests.node.disks import FAILING_ROCKSDB
from tests.node.node_processes import CLUSTER_ID, NodeProcess, until

from dynamo_operator.nodes import Nodes
from dynamo_operator.observed import Address


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    ports = free_ports(3)
    made = NodeProcess(tmp_path, "cart-default-0", (ports[0], ports[1], ports[2]), {})
    made.program = ("-c", FAILING_ROCKSDB)
    try:
        yield made
    finally:
        if made.alive:
            made.kill()


async def test_nothing_is_planned_on_a_disk_that_was_never_seen(
    node: NodeProcess, tmp_path: Path
) -> None:
    """The first ring must not name it, nor pass for its disk's."""
    failing = tmp_path / "cart-default-0.failing"
    failing.write_text("IO error: Input/output error")
    address = Address("127.0.0.1", *(node.http_port, node.native_port, node.admin_port))
    node.start()
    node.wait_up()
    async with Nodes(CLUSTER_ID) as nodes:
        probe = await nodes.probe(node.name, address)
        assert probe.status is None
        assert probe.stranger.startswith("cart-default-0 without a store: the store at ")
        assert probe.stranger.endswith("Input/output error")
        failing.unlink()
        until(lambda: node.status()["disk_id"], "its disk works")
        found = (await nodes.probe(node.name, address)).status
        assert found is not None
        assert (found.disk_id, found.state) == (node.status()["disk_id"], "waiting")
