"""export while slots move: the holders' keys are listed, or it says that some may be missing."""

from collections import Counter
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster

from dynamo_client.cli import dynamo, listing
from dynamo_client.sync import DynamoClient

KEYS = 60


@pytest.fixture
def six() -> Iterator[FakeCluster]:
    cluster = FakeCluster(6)
    with DynamoClient(cluster.urls) as kv:
        for number in range(KEYS):
            kv.put(b"k%d" % number, b"x")
    yield cluster
    cluster.close()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAUSE_S", 0.001)


def _export(fake: FakeCluster) -> Result:
    return CliRunner().invoke(dynamo, ["export"], env={"DYNAMO_URL": fake.urls[0]})


def test_nodes_that_hold_nothing_yet_name_those_that_do(six: FakeCluster) -> None:
    """The ring names who shall hold a partition; three others do."""
    ring = six.ring()
    names = {node.name for node in six.nodes}
    for partition, row in enumerate(ring.slots):
        six.holders[partition] = sorted(names - {ring.member(number).name for number in row})
    done = _export(six)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, KEYS), done.stderr


def test_a_slot_that_moves_while_it_is_listed_has_it_listed_again(six: FakeCluster) -> None:
    asked: Counter[int] = Counter()

    def row_of(partition: int) -> str:
        asked[partition] += 1
        return f"{min(asked[partition], 4):016x}"  # the fourth answer on is all of one row

    six.row_of = row_of
    done = _export(six)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, KEYS), done.stderr
    assert min(asked.values()) >= 6


def test_what_moves_all_the_while_is_said(six: FakeCluster) -> None:
    asked: Counter[int] = Counter()

    def row_of(partition: int) -> str:
        asked[partition] += partition in (2, 5)
        return f"{asked[partition]:016x}"

    six.row_of = row_of
    done = _export(six)
    assert done.exit_code == 3
    assert "2 of 16 partitions moved, or were being recovered, all the while" in done.stderr
    assert asked.keys() >= {2, 5}
    assert asked[2] == 3 * listing.TRIES


def test_holders_that_dont_count_are_no_list(six: FakeCluster) -> None:
    """They are recovering: what they have is not all."""
    ring = six.ring()
    six.holders[3] = [*(ring.member(number).name for number in ring.slots[3])][:0]
    done = _export(six)
    assert done.exit_code == 3
    assert "1 of 16 partitions moved, or were being recovered, all the while" in done.stderr
