"""The chart's dashboard and alerts speak of what nodes export, and each says what to do."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator.monitoring_files import ALERTS, DASHBOARD, EXPRESSIONS, PANELS, RULES
from tests.operator.programs import ROOT
from tests.operator.promql import unknown

GRAFANA_COLUMNS = 24
SCHEMA_VERSION = 36
"""The first in which a data source is named by type and uid, as here."""


def test_a_name_or_label_that_nobody_exports_is_found() -> None:
    known = {"dynamo_a": {"op"}, "dynamo_b_bucket": {"le"}, "dynamo_b_count": set()}
    assert unknown('sum by (op, pod) (rate(dynamo_a{op="put"}[5m]))', known) == []
    assert unknown("sum by (le) (rate(dynamo_b_bucket[5m])) / dynamo_b_count", known) == []
    assert unknown("dynamo_b", known) == ["dynamo_b"]
    assert unknown("up == 0 and dynamo_c", known) == ["dynamo_c"]
    assert unknown('dynamo_a{outcome="ok"}', known) == ["outcome"]
    assert unknown("sum by (target) (dynamo_a)", known) == ["target"]


def test_the_dashboard_has_what_grafana_needs() -> None:
    assert DASHBOARD["schemaVersion"] >= SCHEMA_VERSION
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD.get("id") is None, "a provisioned dashboard gets its id from Grafana"
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    for one in others:
        assert one["type"] == "query"
        assert one["datasource"]["uid"] == "${datasource}"
        assert one["query"]["query"].startswith("label_values(dynamo_ring_epoch")
    for panel in PANELS:
        assert panel["type"] == "timeseries"
        assert isinstance(panel["id"], int)
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"}


def test_panels_have_ids_of_their_own_a_unit_and_a_description() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["description"].strip().endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(one["x"] >= 0 and one["x"] + one["w"] <= GRAFANA_COLUMNS for one in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_every_panel_is_of_the_chosen_cluster() -> None:
    names = [one["name"] for one in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "cluster"]
    chosen = 'namespace="$namespace",dynamocluster_io_cluster="$cluster"'
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for one in panel["targets"]:
            used = re.findall(
                r"\b(?:(?:dynamo|process)_[a-z_]+|up)\b",
                one["expr"].replace(chosen, "CHOSEN"),
            )
            assert one["expr"].count(chosen) == len(used), panel["title"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_and_where_more_stands(rule: Any) -> None:
    said = rule["annotations"]
    assert said["summary"]
    assert said["description"].endswith(".")
    assert rule["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = said["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}


PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool on PATH, nor by PROMTOOL (Debian: prometheus)"
)


def promtool(*words: str) -> None:
    done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", str(ALERTS))


@with_promtool
def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """As rules, since promtool reads no expression by itself."""
    texts = (text.replace("$__rate_interval", "5m") for _, text in EXPRESSIONS)
    rules = [{"record": f"expression:{at}", "expr": text} for at, text in enumerate(texts)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", str(file))


@with_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """alert_series.yaml has both cases of each."""
    cases = (Path(__file__).parent / "alert_series.yaml").read_text()
    file = tmp_path / "series.yaml"
    file.write_text(cases.replace("RULES", str(ALERTS)))
    promtool("test", "rules", str(file))


def test_both_cases_of_each_alert_are_there() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alert_series.yaml").read_text())["tests"]
    told = [
        (one["alertname"], bool(one["exp_alerts"]))
        for case in cases
        for one in case["alert_rule_test"]
    ]
    assert set(told) == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}
