"""What the checks of the book's own pages must catch."""

import pathlib
import shutil
import tempfile
import unittest
import unittest.mock

import build
import outside
import protocol
import runbook

ALERTS = """
groups:
  - rules:
      - alert: DssdSlow
        annotations: {runbook: "Wait. See docs/operations/runbook.md#dssdslow"}
"""
SECTION = "# Runbook\n\n## DssdSlow\n\n**Means:** a\n\n**Look:** b\n\n**Do:** c\n"


class Runbook(unittest.TestCase):
    def test_what_fits(self):
        self.assertEqual(runbook.faults(ALERTS, SECTION), [])

    def test_an_alert_without_a_section(self):
        self.assertIn("DssdSlow has no section", runbook.faults(ALERTS, "# Runbook\n"))

    def test_a_section_without_an_alert(self):
        told = runbook.faults(ALERTS, SECTION + SECTION.replace("DssdSlow", "DssdOld"))
        self.assertEqual(told, ["section DssdOld is about no alert"])

    def test_an_annotation_that_leads_elsewhere(self):
        told = runbook.faults(ALERTS.replace("#dssdslow", "#dssdfast"), SECTION)
        self.assertEqual(len(told), 1)
        self.assertIn("does not name", told[0])

    def test_a_section_that_does_not_say_what_to_do(self):
        told = runbook.faults(ALERTS, SECTION.replace("**Do:**", ""))
        self.assertEqual(told, ["section DssdSlow has no **Do:**"])


class Outside(unittest.TestCase):
    def led(self, target, chapter="operations/page.md"):
        inside = {"docs/README.md", "docs/heads.md", "docs/operations/alerts.yaml"}
        return outside.outside(target, chapter, inside, "https://example.org/it")

    def test_links_within_the_book_stay(self):
        for target in ("../heads.md#files", "alerts.yaml", "#here", "https://example.org/x"):
            self.assertEqual(self.led(target), target)

    def test_links_to_the_first_page_of_a_folder(self):
        self.assertEqual(self.led("../README.md#when-it-pays"), "../index.md#when-it-pays")

    def test_links_out_of_the_book_lead_to_the_repository(self):
        self.assertEqual(
            self.led("../../README.md#call-it"), "https://example.org/it/blob/main/README.md#call-it"
        )
        self.assertEqual(self.led("../../proto/src"), "https://example.org/it/tree/main/proto/src")


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)


class Protocol(Folder):
    def test_a_page_that_is_not_fresh(self):
        page = self.root / "protocol.md"
        with unittest.mock.patch.object(protocol, "PAGE", page):
            protocol.main(["update"])
            protocol.main([])
            page.write_text(page.read_text().replace("Text generation", "Generation"))
            with self.assertRaises(SystemExit):
                protocol.main([])


@unittest.skipUnless(shutil.which("mdbook"), "needs mdbook")
class Build(Folder):
    def built(self, chapter, summary="[One](one.md)"):
        (self.root / "book.toml").write_text('[book]\nsrc = "."\n[build]\ncreate-missing = false\n')
        (self.root / "SUMMARY.md").write_text(f"# Book\n\n{summary}\n")
        (self.root / "one.md").write_text(chapter)
        return build.fault(self.root, self.root / "out")

    def test_a_good_book(self):
        self.assertIsNone(self.built("# One\n"))

    def test_a_warning(self):
        self.assertIn("absent.md", self.built("# One\n\n{{#include absent.md}}\n"))

    def test_a_missing_chapter(self):
        self.assertIn("absent.md", self.built("# One\n", "[Two](absent.md)"))
