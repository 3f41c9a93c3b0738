"""A preprocessor of mdBook: links to what is not in the book lead to the repository instead.

In the book README.md is index.html, as mdBook has it, so links to it lead there."""

import json
import posixpath
import re
import sys
import tomllib
import urllib.parse

from documents import ROOT

LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def chapters(items):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            yield chapter
            yield from chapters(chapter["sub_items"])


def outside(target, chapter, inside, repository):
    """The link as it must be in the book."""
    parts = urllib.parse.urlsplit(target)
    if parts.scheme or not parts.path:
        return target
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(chapter), parts.path))
    if path in inside:
        return re.sub(r"\bREADME\.md(?=#|$)", "index.md", target)
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    anchor = f"#{parts.fragment}" if parts.fragment else ""
    return f"{repository}/{kind}/main/{path}{anchor}"


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    repository = cargo["workspace"]["package"]["repository"]
    found = [chapter for chapter in chapters(book["items"]) if chapter["source_path"]]
    files = [path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix != ".md"]
    inside = {f"docs/{chapter['source_path']}" for chapter in found}
    inside |= {path.relative_to(ROOT).as_posix() for path in files}
    for chapter in found:
        def rewritten(match, source=chapter["source_path"]):
            return outside(match[0], source, inside, repository)

        chapter["content"] = LINK.sub(rewritten, chapter["content"])
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
