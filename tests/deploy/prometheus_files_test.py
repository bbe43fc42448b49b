"""Checks deploy/prometheus and deploy/grafana without a service: rules and alerts are valid and pass
their own tests, every alert has its entry in the runbook, the dashboard has what Grafana's
provisioning needs.
"""
import json
import pathlib
import re
import subprocess
import sys

import yaml

root = pathlib.Path(__file__).resolve().parents[2]
prometheus = root / "deploy" / "prometheus"


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"promtool {' '.join(arguments)}\n{done.stdout}{done.stderr}"


def check_alerts():
    alerts = yaml.safe_load((prometheus / "alerts.yml").read_text())
    tests = (prometheus / "rules_test.yml").read_text()
    runbook = (root / "deploy" / "RUNBOOK.md").read_text()
    entries = re.split(r"^## ", runbook, flags=re.M)[1:]
    by_name = {entry.split("\n", 1)[0].strip(): entry for entry in entries}
    names = []
    for group in alerts["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            names.append(name)
            assert rule["labels"]["severity"] in ("critical", "warning"), name
            for key in ("summary", "description", "runbook_url", "dashboard"):
                assert rule["annotations"].get(key), f"{name} has no {key}"
            assert rule["annotations"]["runbook_url"] == f"deploy/RUNBOOK.md#{name.lower()}", name
            assert name in by_name, f"{name} has no entry in deploy/RUNBOOK.md"
            for part in ("**Meaning.**", "**Look.**", "**Remedy.**"):
                assert part in by_name[name], f"{name}'s entry in the runbook has no {part}"
            assert f"alertname: {name}" in tests, f"{name} has no test in rules_test.yml"
    strangers = [name for name in by_name if name.startswith("Tuppence") and name not in names]
    assert not strangers, f"the runbook has entries for alerts that do not exist: {strangers}"


def check_dashboard():
    dashboard = json.loads((root / "deploy" / "grafana" / "tuppence.json").read_text())
    assert dashboard["uid"] == "tuppence" and "id" not in dashboard
    assert 39 <= dashboard["schemaVersion"] <= 41
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"model_name", "namespace", "pod"} <= set(variables)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            assert "$model_name" in expression, f"{panel['title']} does not filter by model"
            assert not re.search(r"\[\d", expression), f"{panel['title']} has a fixed range"
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]


promtool("check", "config", str(prometheus / "prometheus.yml"))
promtool("test", "rules", str(prometheus / "rules_test.yml"))
check_alerts()
check_dashboard()
print("rules, alerts, runbook and dashboard agree")
sys.exit(0)
