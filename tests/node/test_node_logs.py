"""Lines of the log: what names the trace of the request that they were written for."""

import json
import logging
from collections.abc import Iterator

import pytest

from dynamo_node.logs import on_behalf_of, set_up
from dynamo_telemetry.contexts import header_bytes

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = header_bytes(f"00-{TRACE}-00f067aa0ba902b7-00")


@pytest.fixture
def root() -> Iterator[None]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    quiet = {name: logging.getLogger(name).level for name in ("aiohttp", "asyncio")}
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("style", ["text", "json"])
def test_a_line_names_the_trace_of_its_request(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(style, "info", "cart-default-0")
    log = logging.getLogger("dynamo_node.coordinator")
    log.warning("peer %s refused", "b", extra=on_behalf_of(CONTEXT))
    log.warning("peer %s refused", "c", extra=on_behalf_of(b""))
    traced, plain = capsys.readouterr().err.splitlines()
    if style == "json":
        assert json.loads(traced)["trace_id"] == TRACE
        assert "trace_id" not in json.loads(plain)
    else:
        assert traced.endswith(f"cart-default-0 peer b refused trace={TRACE}")
        assert plain.endswith("cart-default-0 peer c refused")
