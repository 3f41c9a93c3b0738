"""What can be said of a Containerfile without building it."""

import fnmatch
import io
import re

from dockerfile_parse import DockerfileParser

from manifests import ROOT

TARGETS = [f"{name}-{kind}" for name in ("draft-svc", "verify-svc", "dssd") for kind in ("cpu", "cuda")]
COMPILED = "/dssd/target/release/"


def stages(text):
    """Instructions of each stage by its name: pairs of instruction and value."""
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    found = {}
    for each in parser.structure:
        instruction, value = each["instruction"], each["value"]
        if instruction == "FROM":
            name = value.partition(" AS ")[2] or value
            found[name] = []
        if instruction != "COMMENT":
            found[name].append((instruction, value))
    return found


def ignored(path, rules):
    """Whether .dockerignore keeps a path of the repository out; the last rule that fits decides."""
    out = False
    for rule in rules:
        keeps = rule.startswith("!")
        pattern = rule.lstrip("!").removeprefix("**/")
        parts = path.split("/")
        anywhere = rule.lstrip("!").startswith("**/")
        # A pattern of several parts is for a path that begins with them.
        begun = "/".join(parts[: pattern.count("/") + 1])
        fits = any(fnmatch.fnmatch(part, pattern) for part in (parts if anywhere else [begun]))
        out = not keeps if fits else out
    return out


def _faults(text, rules):
    found = stages(text)
    rust = re.search(r'channel = "(.+)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    members = re.search(r"members = \[(.+)\]", (ROOT / "Cargo.toml").read_text())[1]
    built = dict(found.get("build", [])).get("RUN", "")
    yield from (f"target {target} is missing" for target in TARGETS if target not in found)
    for member in [*re.findall(r'"([^"]+)"', members), "Cargo.toml", "Cargo.lock", "models/demo"]:
        if ignored(member, rules):
            yield f"{member} is kept out"
    for rubbish in ("target", ".git", "tests/interop/node_modules", "models/demo/.dssd-hash.json", "rust-toolchain.toml"):
        if not ignored(rubbish, rules):
            yield f"{rubbish} is let in"
    if "--locked" not in built or f"rust:{rust}-" not in found["build"][0][1]:
        yield f"not built with Rust {rust} and the locked dependencies"
    for name, instructions in found.items():
        base = instructions[0][1].split(" AS ")[0]
        if base not in found and not re.search(r"^[\w.]+\.\w+/.+:(?!latest)[\w.-]+$", base):
            yield f"{name}: {base} is neither a stage nor pinned"
        yield from _copies(name, instructions, found, built, rules)
        if name in TARGETS:
            yield from _target(name, instructions, base)


def _copies(name, instructions, found, built, rules):
    packages = re.findall(r"--package (\S+)", built)
    for instruction, value in instructions:
        if instruction != "COPY":
            continue
        *sources, _ = value.split()
        stage = sources.pop(0).removeprefix("--from=") if value.startswith("--from=") else None
        if stage and stage not in found:
            yield f"{name}: no stage {stage}"
        for source in sources:
            if not stage and source != "." and (not (ROOT / source).exists() or ignored(source, rules)):
                yield f"{name}: {source} is not in the repository"
            if source.startswith(COMPILED) and source.removeprefix(COMPILED) not in packages:
                yield f"{name}: {source} is not compiled"


def _target(name, instructions, base):
    """What an image that is deployed must be."""
    program, _, kind = name.rpartition("-")
    last = dict(instructions)
    if base != kind:
        yield f"{name} stands on {base}"
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", last.get("USER", "")):
        yield f"{name}: runs as {last.get('USER', 'root')}"
    if last.get("ENTRYPOINT") != f'["{program}"]' or f"{COMPILED}{program} " not in last.get("COPY", ""):
        yield f"{name} does not run {program}"


def faults(text, ignore_text):
    rules = [line for line in ignore_text.splitlines() if line and not line.startswith("#")]
    return list(_faults(text, rules))
