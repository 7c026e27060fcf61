"""A load on a DynamoCluster, from a pod, that is judged in the end: `dynamo verify`.

By it a scenario says how many requests failed, that no acknowledged write was lost, and that
none came back. Forbidden here: importing the product.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.dynamo_cluster import NAME, Dynamo
from e2e.evidence import folder
from e2e.kube import IMAGES, until

MAX_S = 1800

# Where no fault hits it: beside the control plane, if there is one to see.
_AWAY = {
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchExpressions": [
                            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                        ]
                    },
                }
            ]
        }
    },
    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
}


# The shell stays when the load has ended, so that what it kept can be fetched.
_SCRIPT = """
dynamo verify "$@" --history /tmp/history.jsonl > /tmp/said 2> /tmp/notes &
echo $! > /tmp/pid; wait $!; echo $? > /tmp/code; exec sleep infinity
"""


class Load:
    """`dynamo verify` at work in a pod, until it is told to stop."""

    def __init__(self, dynamo: Dynamo, rate: int) -> None:
        self.kubectl = dynamo.kubectl
        self._scenario = dynamo.scenario.name
        token = self.kubectl.secret(f"{NAME}-admin", "token")
        flags = ("--duration", str(MAX_S), "--rate", str(rate), "--settle", "120", "--json")
        self.kubectl.run(
            *("run", "load", f"--image={IMAGES['operator']}", "--restart=Never"),
            f"--overrides={json.dumps({'spec': _AWAY})}",
            *(f"--env=DYNAMO_URL=http://{NAME}:8080", f"--env=DYNAMO_ADMIN_TOKEN={token}"),
            *("--command", "--", "sh", "-c", _SCRIPT, "load", *flags),
        )
        until(lambda: "operations" in self._file("notes"), "the load works")

    def _file(self, name: str) -> str:
        return self.kubectl.run("exec", "load", "--", "cat", f"/tmp/{name}", check=False)

    def ended(self) -> dict[str, Any]:
        """Stops it, waits until all is read back and judged, and gives the report."""
        assert not self._file("code"), f"the load ended by itself: {self._file('notes')}"
        self.kubectl.run("exec", "load", "--", "sh", "-c", "kill -TERM $(cat /tmp/pid)")
        until(lambda: self._file("code"), "the load is judged", 240.0)
        said = self._file("said").strip()
        assert said.startswith("{"), said + self._file("notes")
        report: dict[str, Any] = json.loads(said)
        if not report["ok"]:
            into = folder() / self._scenario
            into.mkdir(parents=True, exist_ok=True)
            (into / "history.jsonl").write_text(self._file("history.jsonl"))
        self.kubectl.run("delete", "pod", "load", "--grace-period=1", "--wait=true")
        return report


@contextmanager
def loaded(dynamo: Dynamo, rate: int = 150, failed_max: int = 0) -> Iterator[dict[str, Any]]:
    """The load beside what is done inside; its report fills the dict in the end.

    failed_max: the error budget, requests that failed after all retries of the client. What
    reads may be among them, for a read needs R that can know; puts and deletes with a context
    never, but for a few that were under way when their coordinator fell silent: see
    `refused_writes`.
    """
    dynamo.scenario.budget += failed_max
    load = Load(dynamo, rate)
    report: dict[str, Any] = {}
    yield report
    report |= load.ended()
    dynamo.scenario.loads.append(report)
    story = json.dumps(report["violations"], indent=1)
    assert report["ok"], story
    assert report["lacking"] == []
    assert report["failed_requests"] <= failed_max, figures(report)
    assert report["counts"]["acknowledged"] > 0
    assert not refused_writes(report), f"it said no to a write: {figures(report)}"
    dynamo.until_equal()


def refused_writes(report: dict[str, Any]) -> int:
    """Puts, and deletes that read nothing first, that the store answered with an error."""
    return sum(
        times
        for what, times in report["failures"].items()
        if what.startswith(("put 5", "delete 5"))
    )


def figures(report: dict[str, Any]) -> str:
    """What came of it, in a line."""
    counts = report["counts"]
    return (
        f"{counts['acknowledged']:,} writes and {counts['gets']:,} reads answered, "
        f"{report['failed_requests']} requests failed {report['failures'] or ''}".rstrip()
        + f", {len(report['violations'])} promises broken"
    )
