"""Links of the built book: every relative one must lead to a file of it, and to an anchor there."""

import html.parser
import pathlib
import sys
import urllib.parse

from markdown_links import external_fault


class Page(html.parser.HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.update(attrs[name] for name in ("id", "name") if attrs.get(name))
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]


def faults(folder):
    """Every wrong link of a folder of pages, as lines to print, and how many links there are."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    wrong, count = [], 0
    for path, page in pages.items():
        for target in page.links:
            count += 1
            why = fault(folder, pages, path, target)
            if why:
                wrong.append(f"{path.relative_to(folder)}: {target}: {why}")
    return wrong, count


def fault(folder, pages, path, target):
    parts = urllib.parse.urlsplit(target)
    if parts.scheme:
        return None if parts.scheme == "data" else external_fault(target)
    name = urllib.parse.unquote(parts.path)
    # The page for absent addresses is served anywhere, so its links are absolute.
    aim = (folder / name[1:] if name.startswith("/") else path.parent / name if name else path).resolve()
    if aim.is_dir():
        aim = aim / "index.html"
    if not aim.is_file():
        return "no such file"
    anchor = urllib.parse.unquote(parts.fragment)
    if anchor and (aim not in pages or anchor not in pages[aim].anchors):
        return "no such anchor"
    return None


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    wrong, count = faults(folder)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"book: {count} links")


if __name__ == "__main__":
    main()
