"""Runs the documented commands. Arguments: fast or full, the folder of the binaries, and files (all, if none)."""

import collections
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from blocks import COMMANDS, TAGS, Fault, blocks
from session import Session

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = ("draft-svc", "verify-svc", "dssd")
# The services' default ports, which the documents use.
PORTS = (50051, 50052, 9090, 9091)
PORT_SECONDS = 10
# Tools that no package index has. Blocks that call one are left out, and told, where it is not on the PATH.
RARE_TOOLS = ("grpcurl",)
SECONDS = {"fast": 120, "full": 3600}
# Its blocks are run, and their results compared, by tests/interop.
CLIENTS = "docs/clients/"
# Pages of measurements quote commands as they were typed then.
NOT_DOCUMENTS = ("docs/measurements/",)


def repository():
    """Tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in sorted(set(names.split("\0"))) if (ROOT / name).is_file()]


def documents(names):
    """The Markdown files whose blocks count."""
    def counts(name):
        told = name in ("README.md", "k8s/README.md") or name.startswith("docs/")
        return told and name.endswith(".md") and not name.startswith(NOT_DOCUMENTS)

    return [name for name in names if counts(name)]


def workplace(folder, names, binaries):
    """A copy of the repository, with release binaries, in which commands may write."""
    work = folder / "work"
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, work / name)
    release = work / "target/release"
    release.mkdir(parents=True)
    for binary in BINARIES:
        (release / binary).symlink_to(binaries / binary)


def environment():
    """That of the caller, without settings that change what the documents say."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DSSD_", "OTEL_"))}
    return kept | {"NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def in_use(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def check_ports(file):
    """Waits for the ports of services that just ended."""
    deadline = time.monotonic() + PORT_SECONDS
    for port in PORTS:
        while in_use(port):
            if time.monotonic() > deadline:
                raise Fault(f"{file}: port {port} is in use, and the document needs it; end what listens there")
            time.sleep(0.1)


def absent_tool(block):
    """The tool that a block needs and this machine lacks, if any."""
    words = {line.split()[0] for line in block.text if line.split()}
    return next((tool for tool in RARE_TOOLS if tool in words and not shutil.which(tool)), None)


def runnable(blocks, wanted):
    """The blocks to run; those that cannot be are told."""
    for block in blocks:
        if block.tag in wanted and block.language in COMMANDS:
            tool = absent_tool(block)
            if tool is None:
                yield block
            else:
                print(f"skipped: {block.file}:{block.line}: {tool} is not here", flush=True)


def run_file(file, chosen, names, binaries, seconds):
    check_ports(file)
    with tempfile.TemporaryDirectory(prefix="documents-") as folder:
        folder = pathlib.Path(folder)
        workplace(folder, names, binaries)
        Session(file, chosen, folder, environment(), seconds).run()


def run(mode, binaries, files):
    wanted = ("fast",) if mode == "fast" else ("fast", "full")
    names = repository()
    found = {file: blocks(file, (ROOT / file).read_text()) for file in files or documents(names)}
    there, ran, clients = collections.Counter(), collections.Counter(), collections.Counter()
    for file, of_file in found.items():
        if file.startswith(CLIENTS):
            clients.update(block.tag for block in of_file)
            continue
        there.update(block.tag for block in of_file)
        chosen = list(runnable(of_file, wanted))
        if chosen:
            begun = time.monotonic()
            run_file(file, chosen, names, binaries, SECONDS[mode])
            ran.update(block.tag for block in chosen)
            print(f"ok: {file}, {len(chosen)} blocks, {time.monotonic() - begun:.0f} s", flush=True)
    print("documents: " + ", ".join(f"{there[tag]} {tag} ({ran[tag]} ran)" for tag in TAGS))
    print("clients, by tests/interop: " + ", ".join(f"{clients[tag]} {tag}" for tag in TAGS))


def main():
    mode, binaries, *files = sys.argv[1:]
    try:
        run(mode, pathlib.Path(binaries), files)
    except Fault as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
