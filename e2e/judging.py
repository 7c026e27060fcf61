"""What a trial did is read back through every node and judged, and its history is kept."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dynamo_client.cli.trial import Trial
from dynamo_client.client import DynamoClient
from dynamo_core.history_check import check


@asynccontextmanager
async def each_node(urls: Sequence[str]) -> AsyncIterator[list[DynamoClient]]:
    """A client for each of these nodes, which asks nobody else."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(DynamoClient(u, discover=False)) for u in urls]


async def judge(trial: Trial, urls: Sequence[str], folder: Path) -> None:
    """Every key is read through each of these nodes, and no promise was broken."""
    async with each_node(urls) as nodes:
        await trial.read_all(nodes)
    report = check(trial.history)
    kept = folder / "history.jsonl"
    kept.write_text("\n".join(trial.history.lines()))
    story = "\n\n".join(map(str, report.violations[:10]))
    assert report.ok, f"history in {kept}\n{story}"
