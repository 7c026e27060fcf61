"""Prometheus itself scrapes real nodes, and answers what dashboards ask it."""

import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import Cluster, until
from tests.node.prometheus_text import program

PROMETHEUS = program("prometheus")
pytestmark = pytest.mark.skipif(
    PROMETHEUS is None,
    reason="there is no prometheus on PATH, nor by PROMETHEUS (Debian: prometheus)",
)
SCRAPED_S = 60.0


class Prometheus:
    """A process on a free port of 127.0.0.1 that scrapes these nodes once a second."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        (self._port,) = free_ports(1)
        self._folder = folder
        targets = [f"127.0.0.1:{node.http_port}" for node in cluster.nodes]
        (folder / "prometheus.yml").write_text(
            json.dumps(  # which is YAML too
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {
                            "job_name": "dynamo",
                            "static_configs": [
                                {"targets": targets, "labels": {"namespace": "here"}}
                            ],
                        }
                    ],
                }
            )
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        words = (
            str(PROMETHEUS),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--enable-feature=exemplar-storage",
        )
        with (self._folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            yield
        except BaseException:
            print((self._folder / "prometheus.log").read_text()[-3000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, path: str, **query: str) -> Any:
        """What its HTTP API gives as data; None while it isn't there yet."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return json.load(reply)["data"]
        except OSError:
            return None

    def values(self, expression: str) -> list[float]:
        found = self.ask("query", query=expression)
        return [] if found is None else [float(one["value"][1]) for one in found["result"]]


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Writes and traced reads from one thread, as fast as they are answered, until the end."""
    stop = threading.Event()
    traced = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}

    def work() -> None:
        while not stop.is_set():
            for node in cluster.nodes:
                node.put(b"loaded", b"1", node.get(b"loaded").context)
                node.http("GET", "/kv/loaded", **traced)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_prometheus_scrapes_rates_quantiles_and_exemplars(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster()
    prometheus = Prometheus(tmp_path, cluster)
    with prometheus.running(), load(cluster):

        def came(expression: str, good: Callable[[list[float]], bool]) -> None:
            until(lambda: good(prometheus.values(expression)), expression, SCRAPED_S)

        came('up{job="dynamo"}', lambda found: found == [1.0, 1.0, 1.0])
        came(
            'sum(rate(dynamo_requests_total{op="put",outcome="written"}[10s]))',
            lambda found: len(found) == 1 and found[0] > 0,
        )
        came(
            "histogram_quantile(0.99, sum by (op, le)"
            "(rate(dynamo_request_duration_seconds_bucket[10s])))",
            lambda found: sum(0 < value < 60 for value in found) >= 2,
        )
        came(
            "histogram_quantile(0.5, sum by (le)"
            "(rate(dynamo_storage_commit_duration_seconds_bucket[10s])))",
            lambda found: len(found) == 1 and 0 < found[0] < 30,
        )

        def exemplars() -> set[str]:
            name = "dynamo_request_duration_seconds_bucket"
            found = prometheus.ask("query_exemplars", query=name, start="0", end="4000000000")
            return {e["labels"]["trace_id"] for one in found or () for e in one["exemplars"]}

        until(exemplars, "the trace of a read", SCRAPED_S, wanted={"ab" * 16})
        targets = prometheus.ask("targets")["activeTargets"]
        assert [target["lastError"] for target in targets] == ["", "", ""]
