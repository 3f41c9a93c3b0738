"""Fenced code blocks of Markdown files, and the tags that say whether they are run."""

import collections

from markdown_it import MarkdownIt

TAGS = ("fast", "full", "cluster", "gpu")
COMMANDS = ("sh", "bash", "python", "console")

# `line` is that of the opening fence, from 1; `text` the lines between the fences.
Block = collections.namedtuple("Block", ["file", "line", "language", "tag", "text"])


class Fault(Exception):
    """What is wrong, with file and line."""


def fences(file, text):
    """The fenced blocks of a file, lists and quotes included: line, words of the info string, text."""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence":
            yield token.map[0] + 1, token.info.split(), token.content.splitlines()


def blocks(file, text):
    """The blocks with a tag, in order. A block of commands without exactly one tag is a fault."""
    found = []
    for line, info, lines in fences(file, text):
        place = f"{file}:{line}"
        if not info:
            raise Fault(f"{place}: a block needs a language; `text` is one")
        language, tags = info[0], info[1:]
        wrong = [tag for tag in tags if tag not in TAGS]
        if wrong:
            raise Fault(f"{place}: unknown tag {' '.join(wrong)}; known are {', '.join(TAGS)}")
        if language in COMMANDS and len(tags) != 1:
            raise Fault(f"{place}: a block of {language} needs exactly one tag of {', '.join(TAGS)}")
        if language not in COMMANDS and set(tags) & {"fast", "full"}:
            raise Fault(f"{place}: blocks of {language} cannot be run, so have no tag {tags[0]}")
        if tags:
            found.append(Block(file, line, language, tags[0], lines))
    return found
