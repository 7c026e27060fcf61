"""Which metrics and labels a PromQL expression speaks of.

No grammar: enough to find a name that nobody exports, in dashboards and alerts of ours.
"""

import re
from collections.abc import Mapping

SCRAPED = {"namespace", "pod", "dynamocluster_io_cluster"}
"""Labels that a node doesn't give: those of its target, by the operator's ServiceMonitor."""

_USED = re.compile(r"\b((?:dynamo|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?")
_GROUPS = re.compile(r"\b(?:by|without|on|ignoring) *\(([^)]*)\)")

Exported = Mapping[str, set[str]]
"""The name of a series -> its labels."""


def unknown(expression: str, known: Exported) -> list[str]:
    """Every metric or label of it that isn't known. `up` is Prometheus's own."""
    wrong = []
    allowed = set(SCRAPED)
    for name, matchers in _USED.findall(expression):
        labels = set() if name == "up" else known.get(name)
        if labels is None:
            wrong.append(name)
            continue
        allowed |= labels
        wrong += sorted(set(re.findall(r"(\w+) *[=!]", matchers)) - labels - SCRAPED)
    for listed in _GROUPS.findall(expression):
        wrong += sorted({one.strip() for one in listed.split(",")} - allowed - {""})
    return wrong
