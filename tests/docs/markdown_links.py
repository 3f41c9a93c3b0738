"""Links of the repository's Markdown files: relative ones must lead somewhere, others must look right."""

import pathlib
import re
import sys
import urllib.parse

from markdown_it import MarkdownIt

from documents import ROOT, repository

PARSER = MarkdownIt("commonmark").enable("table")
# What mdBook puts in the place of another file's text is no heading of this one.
NAMED = re.compile(r'<a [^>]*\b(?:id|name)="([^"]+)"')


def slug(heading):
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def plain(inline):
    return "".join(part.content for part in inline.children if part.type in ("text", "code_inline"))


def anchors(text):
    """Every anchor of a file."""
    found, seen = set(NAMED.findall(text)), {}
    tokens = PARSER.parse(text)
    for opening, inline in zip(tokens, tokens[1:]):
        if opening.type == "heading_open":
            name = slug(plain(inline))
            again = seen.get(name, 0)
            seen[name] = again + 1
            found.add(f"{name}-{again}" if again else name)
    return found


def links(text):
    """Every link and image: line and target."""
    for token in PARSER.parse(text):
        for part in token.children or []:
            target = part.attrGet("href") or part.attrGet("src")
            if target:
                yield token.map[0] + 1, target


def external_fault(target):
    """What is wrong with the form of an address; nothing is fetched."""
    parts = urllib.parse.urlsplit(target)
    if parts.scheme not in ("http", "https", "mailto"):
        return f"scheme {parts.scheme} is not known"
    if parts.scheme != "mailto" and not re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc):
        return "no host"
    return None


def fault(root, file, target):
    """What is wrong with a link, if anything."""
    if urllib.parse.urlsplit(target).scheme:
        return external_fault(target)
    path, _, anchor = urllib.parse.unquote(target).partition("#")
    aim = (root / file).parent / path if path else root / file
    aim = pathlib.Path(aim.resolve())
    if path.startswith("/") or not aim.is_relative_to(root):
        return "leaves the repository"
    if not aim.exists():
        return "no such file"
    if anchor and (aim.suffix != ".md" or anchor not in anchors(aim.read_text())):
        return "no such anchor"
    return None


def faults(root, files):
    """Every wrong link of the files, as lines to print, and how many links there are."""
    wrong, count = [], 0
    for file in files:
        for line, target in links((root / file).read_text()):
            count += 1
            why = fault(root, file, target)
            if why:
                wrong.append(f"{file}:{line}: {target}: {why}")
    return wrong, count


def main():
    files = [name for name in repository() if name.endswith(".md")]
    wrong, count = faults(ROOT, files)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"Markdown: {count} links in {len(files)} files")


if __name__ == "__main__":
    main()
