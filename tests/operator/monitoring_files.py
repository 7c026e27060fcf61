"""The chart's dashboard and alerts, and every expression in them."""

import json
from typing import Any

import yaml
from tests.operator.programs import ROOT

FILES = ROOT / "charts/dynamo-operator/files"
ALERTS = FILES / "alerts.yaml"
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS: list[tuple[str, str]] = [
    *((panel["title"], one["expr"]) for panel in PANELS for one in panel["targets"]),
    *((rule["alert"], rule["expr"]) for rule in RULES),
]
"""(panel or alert, PromQL); of the dashboard with Grafana's own variables."""
