"""What the runner of documented commands must catch."""

import contextlib
import io
import pathlib
import socket
import tempfile
import textwrap
import time
import unittest
import unittest.mock

import documents
from blocks import Fault, blocks
from session import Session, script

SECONDS = 20


def document(text):
    return textwrap.dedent(text).strip("\n") + "\n"


def play(text, seconds=SECONDS):
    """Runs a document and returns what its commands printed."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "work").mkdir()
        session = Session(
            "doc.md", blocks("doc.md", document(text)), folder, documents.environment(), seconds
        )
        session.run()
        return (folder / "log").read_text()


class Tags(unittest.TestCase):
    def refused(self, text, message):
        with self.assertRaisesRegex(Fault, message):
            blocks("doc.md", document(text))

    def test_a_block_without_a_tag(self):
        self.refused("Text.\n\n```sh\ntrue\n```", r"doc\.md:3: a block of sh needs exactly one tag")

    def test_an_unknown_tag(self):
        self.refused("```sh quick\ntrue\n```", r"doc\.md:1: unknown tag quick")

    def test_two_tags(self):
        self.refused("```python fast full\n1\n```", "exactly one tag")

    def test_a_block_without_a_language(self):
        self.refused("```\ntrue\n```", "needs a language")

    def test_a_tag_to_run_what_cannot_be_run(self):
        self.refused("```go fast\npackage main\n```", "cannot be run")

    def test_a_block_in_a_list_is_seen(self):
        self.refused("- item\n\n  ```sh\n  true\n  ```", r"doc\.md:3")

    def test_other_languages_need_none(self):
        text = document("```yaml\na: 1\n```\n\n```sh gpu\nfalse\n```")
        self.assertEqual([block.tag for block in blocks("doc.md", text)], ["gpu"])


class Choice(unittest.TestCase):
    TEXT = document("```sh fast\ntrue\n```\n\n```sh full\nfalse\n```\n\n```sh cluster\nfalse\n```")

    def chosen(self, text, *wanted):
        found = documents.runnable(blocks("doc.md", text), wanted)
        return [block.line for block in found]

    def test_only_wanted_tags_are_run(self):
        self.assertEqual(self.chosen(self.TEXT, "fast"), [1])
        self.assertEqual(self.chosen(self.TEXT, "fast", "full"), [1, 5])

    def test_only_a_rare_tool_may_be_absent(self):
        text = document("```sh full\ngrpcurl -plaintext\n```\n\n```sh full\nabsent-tool\n```")
        with unittest.mock.patch("shutil.which", return_value=None):
            with contextlib.redirect_stdout(io.StringIO()) as told:
                self.assertEqual(self.chosen(text, "full"), [5])
        self.assertEqual(told.getvalue(), "skipped: doc.md:1: grpcurl is not here\n")

    def test_measurements_are_no_documents(self):
        names = ["README.md", "docs/a.md", "docs/measurements/b.md", "models/c.md", "k8s/README.md"]
        self.assertEqual(documents.documents(names), ["README.md", "docs/a.md", "k8s/README.md"])


class Commands(unittest.TestCase):
    def fails(self, text, message, seconds=SECONDS):
        with self.assertRaisesRegex(Fault, message) as caught:
            play(text, seconds)
        return str(caught.exception)

    def test_a_failing_command_with_its_line_and_output(self):
        text = "# Title\n\n```sh fast\ntrue\necho seen; ls /absent/file\necho never\n```"
        told = self.fails(text, r"^doc\.md:5: ended with status 2")
        self.assertIn("seen", told)
        self.assertNotIn("never", told)

    def test_a_failure_in_a_pipe(self):
        self.fails("```sh fast\nfalse | cat\n```", r"doc\.md:2: ended with status 1")

    def test_a_failing_program(self):
        text = "Text.\n\n```python fast\nprint(1)\nraise SystemExit(3)\n```"
        self.fails(text, r"doc\.md:3: ended with status 3")

    def test_a_shell_that_leaves(self):
        self.fails("```sh fast\nexit 0\n```", r"doc\.md:1: the shell ended with status 0")

    def test_a_command_that_hangs(self):
        begun = time.monotonic()
        self.fails("```sh fast\necho\nsleep 600\n```", r"doc\.md:1: a command still runs", seconds=0.5)
        self.assertLess(time.monotonic() - begun, 10)

    def test_a_service_that_failed_to_start(self):
        text = "```sh fast\n(exit 7) &\n```\n\n```sh fast\nsleep 0.2\n```"
        self.fails(text, "background job ended with status 7")

    def test_a_service_that_fails_as_it_ends(self):
        text = "```sh fast\nbash -c 'trap \"exit 9\" TERM; touch up; while :; do sleep 0.1; done' &\n"
        text += "until test -e up; do sleep 0.05; done\n```"
        self.fails(text, "background job ended with status 9")

    def test_one_session_for_a_file(self):
        text = """
            ```sh fast
            mkdir inside && cd inside
            NAME=value
            sleep 600 &
            ```

            ```sh fast
            kill -0 %1
            echo "$NAME $(basename "$PWD")"
            ```

            ```console fast
            $ echo typed
            this is what it prints
            ```

            ```python fast
            import os
            print("at", os.path.basename(os.getcwd()))
            ```
        """
        self.assertEqual(play(text).split("\n")[:3], ["value inside", "typed", "at inside"])

    def test_lines_of_commands_are_those_of_the_document(self):
        text = document("a\n\n```python fast\n1\n2\n```\n\n```sh fast\ntrue\n```")
        lines = script(blocks("doc.md", text)).split("\n")
        self.assertEqual(lines[8], "true")

    def test_a_port_in_use_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with unittest.mock.patch.multiple(documents, PORTS=(port,), PORT_SECONDS=0.2):
                with self.assertRaisesRegex(Fault, f"doc.md: port {port} is in use"):
                    documents.check_ports("doc.md")
        with unittest.mock.patch.multiple(documents, PORTS=(port,), PORT_SECONDS=0.2):
            documents.check_ports("doc.md")
