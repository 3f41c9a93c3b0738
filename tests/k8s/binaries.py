"""What the binaries say of themselves: flags, variables, defaults, and metrics of a running one."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import urllib.request

from services import HTTP, Service

FOLDER = pathlib.Path(os.environ["DSSD_BINARIES"])
SERVICES = ("draft-svc", "verify-svc")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Variables with their defaults, flags, and the kinds of metrics by name."""

    variables: dict
    flags: frozenset
    metrics: dict


def help_text(*command):
    binary, *rest = command
    return subprocess.run(
        [FOLDER / binary, *rest, "--help"], capture_output=True, text=True, check=True
    ).stdout


def variables(text):
    """Variables of a help text, with the defaults of their flags (None where none is told)."""
    found = {}
    for part in re.split(r"\n\s+(?=-\w, --|--)", text):
        variable = re.search(r"\[env: (\w+)", part)
        default = re.search(r"\[default: ([^\]]*)\]", part[variable.end():]) if variable else None
        if variable:
            found[variable[1]] = default[1] if default else None
    return found


def flags(text):
    return frozenset(re.findall(r"--[a-z][a-z-]+", text))


def scrape(name):
    """Kinds of the metrics that a fresh service exports, by name."""
    service = Service(FOLDER / name)
    try:
        address = service.wait_for_address(HTTP)
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    finally:
        service.stop()
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


@functools.cache
def facts():
    """Of the services and of `dssd check`, by the name of the binary."""
    found = {}
    for name in SERVICES:
        text = help_text(name)
        found[name] = Facts(variables(text), flags(text), scrape(name))
    text = help_text("dssd", "check")
    found["dssd"] = Facts(variables(text), flags(text), {})
    return found
