"""What the checks of links must catch."""

import pathlib
import tempfile
import unittest

import html_links
import markdown_links


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name).resolve()

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Markdown(Folder):
    def told(self, text):
        self.write("docs/page.md", text)
        self.write("other.md", "# A `b`: c\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n")
        return markdown_links.faults(self.root, ["docs/page.md"])[0]

    def test_good_links(self):
        text = "# Here\n\n[a](../other.md) [b](../other.md#a-b-c) [c](#here) [d](../other.md#twice-1)\n"
        self.assertEqual(self.told(text + "[e](..) [f](https://example.org/x) `[g](none.md)`\n"), [])

    def test_a_broken_file(self):
        self.assertEqual(self.told("\n[a](none.md)\n"), ["docs/page.md:2: none.md: no such file"])

    def test_a_broken_image_in_a_table(self):
        self.assertIn("no such file", self.told("| a |\n|---|\n| ![b](none.png) |\n")[0])

    def test_a_broken_anchor(self):
        for target in ("../other.md#none", "#none", "../other.md#no-heading", "../other.md#twice-2"):
            told = self.told(f"[a]({target})\n")
            self.assertEqual(told, [f"docs/page.md:1: {target}: no such anchor"])

    def test_a_way_out(self):
        for target in ("../../x", "/etc/hosts"):
            self.assertIn("leaves the repository", self.told(f"[a]({target})\n")[0])

    def test_addresses_without_form(self):
        self.assertIn("no host", self.told("[a](https:///x)\n")[0])
        self.assertIn("not known", self.told("[a](htp://example.org)\n")[0])


class Html(Folder):
    def told(self, link):
        self.write("a/page.html", f'<h1 id="top">x</h1><a href="{link}">y</a>')
        self.write("index.html", '<h2 id="part">x</h2>')
        return html_links.faults(self.root)[0]

    def test_good_links(self):
        for link in ("../index.html", "../index.html#part", "#top", "https://example.org/"):
            self.assertEqual(self.told(link), [])

    def test_a_broken_file(self):
        self.assertEqual(self.told("none.html"), ["a/page.html: none.html: no such file"])

    def test_a_broken_anchor(self):
        for link in ("../index.html#none", "#part"):
            self.assertEqual(self.told(link), [f"a/page.html: {link}: no such anchor"])
