"""The client programs of docs/clients: how they are made ready, and how they are called."""

import collections
import os
import pathlib
import shutil
import subprocess
import sys

from blocks import command_blocks, run_block

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "docs/clients"
PROGRAM_SECONDS = 60
GO_TOOLS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
GO_SOURCES = pathlib.Path("/usr/share/gocode/src/google.golang.org/grpc")

# Ended: the exit status, the text without its last line end, the lines of stderr.
Outcome = collections.namedtuple("Outcome", ["status", "text", "notes"])


class Program:
    """A client by its command line."""

    def __init__(self, name, *command):
        self.name = name
        self._command = [str(part) for part in command]

    def start(self, address, *arguments, prompt="Once upon a time"):
        return subprocess.Popen(
            [*self._command, "--endpoint", address, *map(str, arguments), prompt],
            # Unbuffered: what was read in the middle must not take more with it.
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=ROOT,
        )

    def run(self, address, *arguments, **options):
        return finish(self.start(address, *arguments, **options))


def read(process, count):
    """At least so many bytes of the text, or all of it."""
    text = b""
    while len(text) < count and (more := process.stdout.read(count)):
        text += more
    return text


def finish(process, begun=b""):
    """The outcome of a program of whose text `begun` was read already."""
    try:
        text, notes = process.communicate(timeout=PROGRAM_SECONDS)
    except subprocess.TimeoutExpired as late:
        process.kill()
        process.wait()
        raise AssertionError(f"{process.args} does not end; stderr: {late.stderr}") from late
    text = (begun + text).decode().removesuffix("\n")
    return Outcome(process.returncode, text, notes.decode().splitlines())


def is_at_hand(language):
    return language != "go" or (all(map(shutil.which, GO_TOOLS)) and GO_SOURCES.is_dir())


def can_install():
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def follow_readme(language, pair, binaries):
    """Runs the command blocks of a client's README, which make it ready and call it; what is at hand is not
    installed again."""
    blocks = command_blocks(CLIENTS / language / "README.md", "full" if language == "go" else "fast")
    if is_at_hand(language):
        blocks = [block for block in blocks if not block.text.startswith("apt-get")]
    assert blocks, f"the README of {language} has no commands"
    for block in blocks:
        output = run_block(block.text, pair, binaries)
    assert output.strip(), f"the README of {language} gives no text"


def program(language, binaries):
    match language:
        case "python":
            return Program(language, ROOT / "target/clients/python/bin/python", CLIENTS / "python/client.py")
        case "typescript":
            return Program(language, "node", CLIENTS / "typescript/dist/client.js")
        case "go":
            return Program(language, ROOT / "target/clients/go/client")
        case "rust":
            return Program(language, binaries / "dssd-client-example")


def faulty(fault):
    """The Python client with a fault."""
    return Program(fault, sys.executable, pathlib.Path(__file__).with_name("faulty.py"), fault)
