"""What is told in two places is told alike."""

import json

import yaml

from manifests import COMPOSITIONS, ROOT, named, of_kind, render

MONITORED = render(next(each for each in COMPOSITIONS if each.name == "production"))


def test_alert_rules_are_those_of_the_documents():
    [rules] = of_kind(MONITORED, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((ROOT / "docs/operations/alerts.yaml").read_text())


def test_the_dashboard_is_the_one_of_the_documents():
    config = named(MONITORED, "ConfigMap", "dssd-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["dssd.json"]) == json.loads((ROOT / "docs/operations/dashboard.json").read_text())
