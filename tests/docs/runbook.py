"""Each alert names its section of the runbook, and each section is about an alert."""

import re
import sys

import yaml

from documents import ROOT
from markdown_links import slug

FOLDER = "docs/operations"


def faults(alerts, runbook):
    """What is wrong, as lines to print."""
    sections = re.findall(r"^## (.+)$", runbook, re.MULTILINE)
    rules = [rule for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    wrong = [f"{name} has no section" for name in names if name not in sections]
    wrong += [f"section {name} is about no alert" for name in sections if name not in names]
    for rule in rules:
        address = f"{FOLDER}/runbook.md#{slug(rule['alert'])}"
        if address not in rule["annotations"]["runbook"].split():
            wrong.append(f"the runbook of {rule['alert']} does not name {address}")
    for body in re.split(r"^## ", runbook, flags=re.MULTILINE)[1:]:
        lacking = [part for part in ("**Means:**", "**Look:**", "**Do:**") if part not in body]
        wrong += [f"section {body.split()[0]} has no {part}" for part in lacking]
    return wrong


def main():
    texts = ((ROOT / FOLDER / name).read_text() for name in ("alerts.yaml", "runbook.md"))
    wrong = faults(*texts)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
