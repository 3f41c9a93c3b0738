"""Runs the commands of docs/clients/grpcurl.md, and compares what they print with what stands in the page.

`GRPCURL=PATH` has them run by grpcurl itself.
"""

import os
import pathlib
import re
import shlex
import sys
import tempfile

from blocks import fenced_blocks, run_block
from programs import CLIENTS

PAGE = CLIENTS / "grpcurl.md"
# Stands for anything: on a line of its own for lines, within a line for characters.
ANYTHING = "…"


def is_as_told(output, told):
    lines = (
        r"(?:.*\n)*?" if line == ANYTHING else re.escape(line).replace(re.escape(ANYTHING), ".*") + "\n"
        for line in told.splitlines()
    )
    return re.fullmatch("".join(lines), output) is not None


def exchanges():
    """The commands of the page, each with what it is told to print."""
    blocks = fenced_blocks(PAGE)
    commands, told = blocks[::2], blocks[1::2]
    kinds = {(block.language, block.tag) for block in commands}, {block.language for block in told}
    assert kinds == ({("sh", "fast")}, {"text"}) and len(commands) == len(told), "commands and output must take turns"
    return [(command.text, answer.text) for command, answer in zip(commands, told)]


def write_grpcurl(folder):
    """A command `grpcurl` in this folder."""
    own = [sys.executable, str(pathlib.Path(__file__).with_name("grpcurl.py"))]
    command = shlex.join([os.environ["GRPCURL"]] if "GRPCURL" in os.environ else own)
    script = pathlib.Path(folder, "grpcurl")
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)


def run_checks(world):
    """Runs the page, prints a line for each command and returns their number."""
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        write_grpcurl(folder)
        for command, told in exchanges():
            output = run_block(f"exec 2>&1\n{command}", world.pair, world.binaries, path=folder)
            assert is_as_told(output, told), f"{command}\nprints\n{output}\nbut the page says\n{told}"
            for line in told.splitlines():
                if re.search(r"\w", line):
                    wrong = told.replace(line, f"{line} wrong", 1)
                    assert not is_as_told(output, wrong), f"{command}\nmay print anything for\n{line}"
            passed += 1
            print(f"ok: grpcurl.md: {command.splitlines()[0]}", flush=True)
    assert passed > 0, "the page has no command"
    return passed
