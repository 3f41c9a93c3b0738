"""The command: what it refuses, what it reads, and what it prints."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import dssd_reports
import gpu_compare
from dssd_reports import Unusable

SCRIPT = pathlib.Path(gpu_compare.__file__)
KERNELS = {
    "gpu": "a card",
    "timings": [
        {"name": "read only", "microseconds": 40.0},
        {"name": "entropy, 1024 rows", "microseconds": 50.0},
        {"name": "entropy, 1 row", "microseconds": 5},
    ],
}
DECODE = {
    "gpu": "a card",
    "shape": "pythia-410m",
    "dtype": "bf16",
    "weight_bytes": 700_000_000,
    "read_bandwidth": 2e12,
    "batches": [{"batch": 8, "step_seconds": 2e-3}, {"batch": 1, "step_seconds": 5e-4}],
}


def refused(*given):
    """What argparse says of arguments, on its way out with 2."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            gpu_compare.arguments(given)
    except SystemExit as ended:
        assert ended.code == 2, ended.code
        return told.getvalue()
    raise AssertionError(f"{given} were taken")


class Arguments(unittest.TestCase):
    def test_reports_come_from_a_program_or_from_files(self):
        self.assertIn("--dssd PATH", refused())
        self.assertIn("--dssd PATH", refused("--kernels", "k.json"))
        self.assertIn("one or the other", refused("--dssd", "x", "--kernels", "k.json"))
        self.assertIn("needs --model", refused("--kernels", "k.json", "--decode", "d.json"))
        self.assertIn("not allowed with", refused("--dssd", "x", "--shape", "a", "--model", "b"))
        self.assertIn("at least 1", refused("--dssd", "x", "--launches", "0"))

    def test_logits_alone_need_one_report(self):
        self.assertEqual(gpu_compare.arguments(["--kernels", "k.json", "--no-decode"]).launches, 200)

    def test_a_machine_without_the_packages_or_a_gpu_is_told_with_status_2(self):
        done = subprocess.run([sys.executable, SCRIPT, "--dssd", "nowhere"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"^error: (there is no torch here: pip install|torch finds no CUDA device)")
        self.assertEqual(done.stdout, "")


class Reports(unittest.TestCase):
    def test_figures_of_dssd_are_found(self):
        self.assertEqual(dssd_reports.microseconds(KERNELS, gpu_compare.KERNELS[1024]), 50.0)
        self.assertEqual(dssd_reports.microseconds(KERNELS, gpu_compare.KERNELS[1]), 5)
        decoding = dssd_reports.Decoding(DECODE)
        self.assertEqual(decoding.step_seconds, 5e-4)
        # 0.35 ms of reading.
        self.assertAlmostEqual(decoding.share(5e-4), 0.7)

    def test_what_is_no_report_of_a_gpu_is_refused(self):
        without = lambda report, name: {key: value for key, value in report.items() if key != name}
        for name in DECODE:
            with self.assertRaisesRegex(Unusable, name):
                dssd_reports.Decoding(without(DECODE, name))
        with self.assertRaisesRegex(Unusable, "no batch of 1"):
            dssd_reports.Decoding({**DECODE, "batches": DECODE["batches"][:1]})
        with self.assertRaisesRegex(Unusable, "step_seconds"):
            dssd_reports.Decoding({**DECODE, "batches": [{"batch": 1, "step_seconds": "fast"}]})
        with self.assertRaisesRegex(Unusable, "is in f32"):
            dssd_reports.Decoding({**DECODE, "dtype": "f32"})
        with self.assertRaisesRegex(Unusable, "no batch"):
            dssd_reports.Decoding({**DECODE, "batches": [8, 1]})
        with self.assertRaisesRegex(Unusable, "no timing of `entropy, 1 row`"):
            dssd_reports.microseconds({"timings": KERNELS["timings"][:2]}, "entropy, 1 row")
        with self.assertRaisesRegex(Unusable, "timings"):
            dssd_reports.microseconds({"threads": 2}, "entropy, 1 row")

    def test_files_are_read_and_bad_ones_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "kernels.json"
            with self.assertRaisesRegex(Unusable, "kernels.json"):
                dssd_reports.read(path)
            path.write_text(json.dumps(KERNELS))
            self.assertEqual(dssd_reports.read(path), KERNELS)
            for text in ("", "read only  40.0", "[1]"):
                path.write_text(text)
                with self.assertRaisesRegex(Unusable, "kernels.json: no "):
                    dssd_reports.read(path)

    def test_a_program_that_fails_is_told_in_its_own_words(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "dssd"
            with self.assertRaisesRegex(Unusable, "No such file"):
                dssd_reports.run(program, "kernels")
            program.write_text('#!/bin/sh\n[ "$1 $2 $3" = "bench kernels --json" ] && echo \'{"gpu": "a card"}\' || { echo "no driver" >&2; exit 2; }\n')
            program.chmod(0o700)
            self.assertEqual(dssd_reports.run(program, "kernels"), {"gpu": "a card"})
            with contextlib.chdir(folder):
                self.assertEqual(dssd_reports.run(pathlib.Path("dssd"), "kernels"), {"gpu": "a card"})
            with self.assertRaisesRegex(Unusable, "ended with 2: no driver"):
                dssd_reports.run(program, "decode")


def report(difference):
    size = 1024 * gpu_compare.VOCABULARY * 2
    decoding = dssd_reports.Decoding(DECODE)
    return {
        "gpu": "a card",
        "versions": {"torch": "2"},
        "logits": [gpu_compare.line(1024, "dssd", size, 50e-6), gpu_compare.line(1024, "Triton", size, 60e-6, difference)],
        "shape": "pythia-410m",
        "decode": [
            gpu_compare.decode_line("dssd", decoding, 5e-4),
            gpu_compare.decode_line("transformers, eager", decoding, 1e-2),
            {"who": "transformers, static cache, compiled", "failed": "RuntimeError: no compiler"},
        ],
    }


class Table(unittest.TestCase):
    def test_ways_stand_beside_that_of_dssd(self):
        lines = "\n".join(gpu_compare.table(report(1e-6))).splitlines()
        triton = next(line for line in lines if "Triton" in line).split()
        # 103 MB in 60 µs.
        self.assertEqual(triton, ["1024", "Triton", "60.00", "1717.0", "1.20", "1.0e-06"])
        eager = next(line for line in lines if "eager" in line).split()
        self.assertEqual(eager, ["transformers,", "eager", "100.0", "10.00", "20.00", "3.5", "%"])
        self.assertTrue(any("failed: RuntimeError: no compiler" in line for line in lines), lines)

    def test_outputs_that_are_off_are_named(self):
        self.assertEqual(gpu_compare.wrong(report(1e-6)), [])
        self.assertEqual(gpu_compare.wrong(report(1e-2)), ["1024 rows by Triton"])
        self.assertEqual(gpu_compare.wrong(report(float("inf"))), ["1024 rows by Triton"])
        told = json.dumps(gpu_compare.finite(report(float("inf"))), allow_nan=False)
        self.assertEqual(json.loads(told)["logits"][1]["largest_difference"], "inf")


if __name__ == "__main__":
    unittest.main()
