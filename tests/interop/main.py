"""Runs every interop check against a pair of services.

Arguments: the folder of the binaries, and `fast`, or `full`, which installs what is missing.
"""

import collections
import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile

import drafting
import faulty
import generation
import page
import programs
from reflected import Reflected
from scenarios import SCENARIOS, World
from services import running_pair

LANGUAGES = ["python", "typescript", "rust", "go"]

Secrets = collections.namedtuple("Secrets", ["certificate", "key", "tokens"])


def run_checks(who, checks, *arguments):
    """Calls the checks in order, prints a line for each and returns their number."""
    for check in checks:
        check(*arguments)
        print(f"ok: {who} {check.__name__}", flush=True)
    return len(checks)


def make_secrets(folder):
    """A certificate of 127.0.0.1 that is its own issuer, and a token."""
    secrets = Secrets(folder / "cert.pem", folder / "key.pem", folder / "tokens")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
            "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", secrets.key, "-out", secrets.certificate,
        ],
        check=True, capture_output=True,
    )
    secrets.tokens.write_text("# a comment\n" + "t" * 40 + "\n")
    return secrets


def make_ready(language, world, mode):
    """Follows a client's README. None: its tools are not at hand."""
    if programs.is_at_hand(language) or mode == "full" and programs.can_install():
        programs.follow_readme(language, world.pair, world.binaries)
        return programs.program(language, world.binaries)
    if mode == "full":
        raise SystemExit(f"{language}: its tools are not at hand, and cannot be installed here")
    print(f"skipped: {language}: its tools are not at hand", flush=True)
    return None


def finds_the_fault(fault, scenario, world):
    """The scenario must fail with a program that has this fault."""
    try:
        # The failure that is expected here comes with logs.
        with contextlib.redirect_stdout(io.StringIO()):
            scenario(programs.faulty(fault), world)
    except AssertionError:
        return
    raise SystemExit(f"{scenario.__name__} does not find the fault `{fault}`")


def run_faulty(world):
    scenarios = {scenario.__name__: scenario for scenario in SCENARIOS}
    assert set(faulty.FAULTS.values()) == set(scenarios), "a scenario has no fault that it finds"
    # Whoever finds a fault where there is none would find any.
    for scenario in SCENARIOS:
        scenario(programs.faulty("none"), world)
    for fault, name in faulty.FAULTS.items():
        finds_the_fault(fault, scenarios[name], world)
        print(f"ok: {name} finds {fault}", flush=True)
    return len(faulty.FAULTS)


def main():
    binaries, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
    with running_pair(binaries) as pair, tempfile.TemporaryDirectory() as folder:
        world = World(binaries, pair, make_secrets(pathlib.Path(folder)))
        with Reflected(pair.verify) as verifier, Reflected(pair.draft) as drafter:
            passed = run_checks("reflection", generation.CHECKS, verifier)
            passed += run_checks("reflection", drafting.CHECKS, verifier, drafter)
        for language in LANGUAGES:
            if program := make_ready(language, world, mode):
                passed += run_checks(language, SCENARIOS, program, world)
        passed += run_faulty(world)
        passed += page.run_checks(world)
    print(f"interop: {passed} checks passed")


if __name__ == "__main__":
    main()
