"""The native load generator: `python -m bench.native_load URL PREFIX LOG ...`.

One process, one connection to each node, so many requests in flight. It uses
the client's transport (which picks an owner of the key) and leaves out what is
above that, tries at other nodes: a request that fails fails the run. Prints
its totals as JSON, and logs each request as h2load does: start (us since
1970), status, latency (us).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count, cycle
from pathlib import Path

import uvloop

from bench.h2load import Totals
from dynamo_client.client import new_write_id
from dynamo_client.errors import DynamoClientError
from dynamo_client.http_transport import HttpTransport
from dynamo_client.native_transport import NativeTransport
from dynamo_client.transport import GetCall, PutCall

TIMEOUT_MS = 5_000
_LINK_S_MAX = 5.0
_NO_STATUS = 599


async def load(options: argparse.Namespace) -> Totals:
    value = options.body.read_bytes() if options.body else None
    keys: Iterator[bytes] = (b"%s-%d" % (options.prefix.encode(), n) for n in count())
    if options.keys:
        keys = cycle([f"{options.prefix}-{n:06d}".encode() for n in range(options.keys)])
    transport = NativeTransport(HttpTransport(), falls_back=False)
    rows: list[tuple[int, int, int]] = []
    started = received = failed = 0

    async def work(end: float) -> None:
        nonlocal started, received, failed
        clock, wall = time.perf_counter, time.time_ns
        while (begin := clock()) < end:
            key = next(keys)
            began_us = wall() // 1000
            started += 1
            try:
                node = transport.owners(key, reads=value is None)[0]
                if value is None:
                    item = await transport.get(node, GetCall(key), TIMEOUT_MS)
                    status = 200 if item.found else 404
                    received += sum(map(len, item.values))
                else:
                    call = PutCall(key, value, new_write_id())
                    await transport.put(node, call, TIMEOUT_MS)
                    status = 204
            except (DynamoClientError, IndexError) as error:
                status = getattr(error, "status", None) or _NO_STATUS
                failed += 1
            rows.append((began_us, status, int((clock() - begin) * 1e6)))

    try:
        await _linked(transport, options.url)
        end = time.perf_counter() + options.duration_ms / 1000
        await asyncio.gather(*(work(end) for _ in range(options.in_flight)))
    finally:
        await transport.close()
    with options.log.open("w") as log:
        log.writelines(f"{began}\t{status}\t{latency}\n" for began, status, latency in rows)
    return Totals(started, len(rows) - failed, failed, received)


async def _linked(transport: NativeTransport, url: str) -> None:
    """Wait until every node is reached natively, for a bounded time."""
    deadline = time.monotonic() + _LINK_S_MAX
    while True:
        view = await transport.cluster(url, TIMEOUT_MS)
        if len(transport.linked) == len(view["nodes"]) and transport.owners(b"any", reads=False):
            return
        if time.monotonic() > deadline:
            sys.exit(f"only {transport.linked} are reached natively after {_LINK_S_MAX} s")
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.native_load")
    parser.add_argument("url")
    parser.add_argument("prefix")
    parser.add_argument("log", type=Path)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--duration-ms", type=int, required=True)
    parser.add_argument("--keys", type=int, default=0, help="existing keys PREFIX-000000 and up")
    parser.add_argument("--body", type=Path, help="puts of these bytes; without it, gets")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(load(options)))))


if __name__ == "__main__":
    main()
