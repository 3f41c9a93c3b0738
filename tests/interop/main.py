"""Runs every interop check against a pair of services. Argument: the folder of the binaries."""

import os
import pathlib
import subprocess
import sys

import drafting
import generation
from reflected import Reflected
from services import running_pair

HERE = pathlib.Path(__file__).resolve().parent
NODE_SECONDS = 120


def run_checks(checks, *arguments):
    """Calls the checks in order, prints a line for each and returns their number."""
    for check in checks:
        check(*arguments)
        print(f"ok: python {check.__name__}")
    return len(checks)


def run_node(verify):
    """Runs the Node client, which prints a line for each check; returns their number."""
    node = subprocess.run(
        ["node", HERE / "client.js", verify],
        timeout=NODE_SECONDS, env=os.environ, capture_output=True, text=True,
    )
    print(node.stdout, end="")
    assert node.returncode == 0, f"the Node client failed\n{node.stderr}"
    passed = sum(line.startswith("ok: ") for line in node.stdout.splitlines())
    assert passed > 0, "the Node client checked nothing"
    return passed


def main():
    binaries = pathlib.Path(sys.argv[1])
    with running_pair(binaries) as pair:
        with Reflected(pair.verify) as verifier, Reflected(pair.draft) as drafter:
            passed = run_checks(generation.CHECKS, verifier)
            passed += run_checks(drafting.CHECKS, verifier, drafter)
        passed += run_node(pair.verify)
    print(f"interop: {passed} checks passed")


if __name__ == "__main__":
    main()
