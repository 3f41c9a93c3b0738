"""Command blocks of Markdown pages, run as they stand there."""

import collections
import os
import re
import subprocess

BLOCK_SECONDS = 900
FENCED = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# `tag` is the second word after the fence, such as `fast`; None without one.
Block = collections.namedtuple("Block", ["language", "tag", "text"])


def fenced_blocks(page):
    return [Block(*found.groups()) for found in FENCED.finditer(page.read_text())]


def command_blocks(page, tag):
    return [block for block in fenced_blocks(page) if (block.language, block.tag) == ("sh", tag)]


def run_block(text, pair, binaries, path=None):
    """Runs a block from the root of the repository, with the addresses under test instead of the default
    ones. Returns what it prints."""
    told = {"127.0.0.1:50051": pair.verify, "127.0.0.1:50052": pair.draft, "target/debug/": f"{binaries}/"}
    for default, tested in told.items():
        text = text.replace(default, tested)
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    shell = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=os.path.join(os.path.dirname(__file__), "../.."), env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=BLOCK_SECONDS,
    )
    assert shell.returncode == 0, f"status {shell.returncode} of\n{text}\n{shell.stdout}{shell.stderr}"
    return shell.stdout
