"""Builds a book without a warning. Arguments: the folder of book.toml, and where to."""

import re
import subprocess
import sys


def fault(book, out):
    """What mdBook complains of, if anything."""
    command = ["mdbook", "build", "--dest-dir", out, book]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode != 0 or re.search(r"^\W*(WARN|ERROR)\b", built.stdout, re.MULTILINE):
        return built.stdout
    return None


def main():
    why = fault(*sys.argv[1:])
    if why:
        sys.exit(f"mdbook complains:\n{why}")


if __name__ == "__main__":
    main()
