#!/usr/bin/env python3
"""What dssd takes on a GPU, beside what others take on the same one, in the same run.

Logits: entropy, arg-max, log-sum-exp and margins of bf16 rows, by dssd's kernel, by a chain of torch operations, by
torch.compile of that chain, and by a Triton kernel that reads each row once. Outputs of the others are compared with float64
first, and those of dssd by `dssd gpu-check`.
Decoding: one sequence, greedily, in bf16, by dssd and by Hugging Face transformers, on the same random weights.

Example: bench/gpu_compare.py --dssd target/release/dssd --shape pythia-2.8b

Needs what bench/requirements.txt lists. Exits with 1 where an output differs from float64, and with 2 where something
that is needed is missing.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import sys
import tempfile

import dssd_reports
from dssd_reports import Unusable

VOCABULARY = 50_304
ROWS = (1024, 1)
# As dssd names its timings.
KERNELS = {1024: "entropy, 1024 rows", 1: "entropy, 1 row"}
# Off the float64 oracle by more than float32 sums over a vocabulary may be.
TOLERANCE = 2e-4
# Parts of a row, logits of a block and warps of the Triton kernel: the fastest is told.
TRITON = {
    1024: [(1, 1024, 4), (1, 2048, 4), (1, 2048, 8), (1, 4096, 8), (2, 2048, 8), (4, 2048, 8)],
    1: [(8, 2048, 8), (16, 1024, 4), (16, 2048, 8), (32, 1024, 4), (64, 512, 4), (64, 1024, 4)],
}


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dssd", type=pathlib.Path, metavar="PATH", help="the program, which is run on this GPU")
    parser.add_argument("--kernels", type=pathlib.Path, metavar="FILE", help="instead: what `dssd bench kernels --device cuda --json` printed here")
    parser.add_argument("--decode", type=pathlib.Path, metavar="FILE", help="and what `dssd bench decode --device cuda --json` did")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--shape", metavar="NAME", help="random weights of this published shape [default: pythia-410m]")
    model.add_argument("--model", type=pathlib.Path, metavar="DIR", help="Hugging Face folder of the decoded model, in bf16")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="which GPU [default: 0]")
    parser.add_argument("--launches", type=positive, default=200, metavar="N", help="launches of each way in one graph [default: 200]")
    parser.add_argument("--no-decode", action="store_true", help="logits alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(given)
    files = [options.kernels] if options.no_decode else [options.kernels, options.decode]
    if options.dssd is None and None in files:
        parser.error("name --dssd PATH, or its reports: --kernels FILE and --decode FILE")
    if options.dssd is not None and (options.kernels or options.decode):
        parser.error("--dssd runs what --kernels and --decode have read: name one or the other")
    if options.dssd is None and not options.no_decode and options.model is None:
        parser.error("without --dssd, which makes random weights, decoding needs --model DIR")
    return options


def check_machine(device):
    """Refuses a machine that lacks what is compared."""
    for package in ("torch", "triton", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise Unusable(f"there is no {package} here: pip install -r bench/requirements.txt")
    import torch

    if not torch.cuda.is_available():
        raise Unusable("torch finds no CUDA device here: a GPU and its driver are needed")
    if device >= torch.cuda.device_count():
        raise Unusable(f"--device {device}: there are {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(device)


def compare_logits(options, kernels):
    """A line for each number of rows and way."""
    import torch

    lines = []
    for rows in ROWS:
        size = rows * VOCABULARY * 2
        lines.append(line(rows, "dssd", size, dssd_reports.microseconds(kernels, KERNELS[rows]) / 1e6))
        lines.extend(others_on_logits(rows, size, options.launches))
    # For the program that decodes next.
    torch.cuda.empty_cache()
    return lines


def line(rows, who, size, seconds, difference=None):
    return {
        "rows": rows,
        "vocabulary": VOCABULARY,
        "who": who,
        "microseconds": 1e6 * seconds,
        "gigabytes_per_second": size / seconds / 1e9,
        "largest_difference": difference,
    }


def others_on_logits(rows, size, launches):
    import torch

    import row_summaries as summaries
    from device_time import BUFFERS, seconds_per_launch

    torch.manual_seed(rows)
    buffers = [(3 * torch.randn(rows, VOCABULARY, device="cuda")).bfloat16() for _ in range(BUFFERS)]

    def measured(who, work):
        difference = summaries.difference(buffers[0], work(buffers[0]))
        return line(rows, who, size, seconds_per_launch(work, buffers, launches), difference)

    for name, two in (("top-k", summaries.two_by_topk), ("masked maximum", summaries.two_by_mask)):
        def chain(logits, two=two):
            return summaries.chain(logits, two)

        yield measured(f"torch, {name}", chain)
        yield measured(f"torch.compile, {name}", torch.compile(chain, dynamic=False))
    ways = [measured("Triton", summaries.Fused(rows, VOCABULARY, "cuda", *way)) for way in TRITON[rows]]
    # A wrong one must not hide behind a fast one.
    yield max(ways, key=lambda way: (way["largest_difference"] > TOLERANCE, -way["microseconds"]))


def compare_decoding(options, folder, decoding):
    """A line for each way; one that fails says why."""
    import torch

    import transformers_decoding

    lines = [decode_line("dssd", decoding, decoding.step_seconds)]
    model = transformers_decoding.load(folder, f"cuda:{options.device}")
    for who, settings in transformers_decoding.WAYS.items():
        try:
            lines.append(decode_line(who, decoding, transformers_decoding.step_seconds(model, **settings)))
        # Compilers fail in many ways, and what was measured before is told all the same.
        except Exception as error:  # noqa: BLE001
            lines.append({"who": who, "failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        torch.cuda.empty_cache()
    return lines


def decode_line(who, decoding, step_seconds):
    return {
        "who": who,
        "tokens_per_second": 1 / step_seconds,
        "step_seconds": step_seconds,
        "bandwidth_share": decoding.share(step_seconds),
    }


def check_card(gpu, device):
    """Refuses what dssd measured on another card than the one that others run on."""
    import torch

    here = torch.cuda.get_device_name(device)
    if gpu != here:
        raise Unusable(f"dssd ran on {gpu}, and this is {here}")


def compare(options, scratch):
    device = f"cuda:{options.device}"
    kernels = dssd_reports.read(options.kernels) if options.kernels else dssd_reports.run(options.dssd, "kernels", "--device", device)
    check_card(dssd_reports.key(kernels, "gpu", str, "the kernels"), options.device)
    report = {"gpu": dssd_reports.key(kernels, "gpu", str, "the kernels"), "versions": versions(), "logits": compare_logits(options, kernels)}
    if options.no_decode:
        return report
    folder = options.model or pathlib.Path(scratch)
    if options.decode:
        measured = dssd_reports.read(options.decode)
    elif options.model:
        measured = dssd_reports.run(options.dssd, "decode", "--device", device, "--dtype", "bf16", "--model", str(folder))
    else:
        shape = options.shape or "pythia-410m"
        measured = dssd_reports.run(options.dssd, "decode", "--device", device, "--dtype", "bf16", "--shape", shape, "--save", str(folder))
    decoding = dssd_reports.Decoding(measured)
    check_card(decoding.gpu, options.device)
    if options.model and decoding.shape != options.model.resolve().name:
        raise Unusable(f"the decoding is of {decoding.shape}, not of {options.model}")
    return {**report, "shape": decoding.shape, "decode": compare_decoding(options, folder, decoding)}


def versions():
    import torch
    import transformers
    import triton

    return {"torch": torch.__version__, "triton": triton.__version__, "transformers": transformers.__version__}


def table(report):
    """What a person reads."""
    yield f"{report['gpu']}, " + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield f"\nsummaries of rows of {VOCABULARY} bf16 logits\n rows  by                                       us     GB/s  to dssd  off float64 by"
    for way in report["logits"]:
        own = next(other for other in report["logits"] if other["rows"] == way["rows"] and other["who"] == "dssd")
        ratio = way["microseconds"] / own["microseconds"]
        off = "" if way["largest_difference"] is None else f"{way['largest_difference']:.1e}"
        yield f"{way['rows']:5}  {way['who']:36} {way['microseconds']:8.2f} {way['gigabytes_per_second']:8.1f} {ratio:8.2f}  {off:>14}"
    if "decode" not in report:
        return
    yield f"\none sequence of {report['shape']}, greedily, in bf16\n       by                                 tokens/s  step ms  to dssd  of reading"
    own = report["decode"][0]["step_seconds"]
    for way in report["decode"]:
        if "failed" in way:
            yield f"       {way['who']:36} failed: {way['failed']}"
            continue
        seconds = way["step_seconds"]
        yield f"       {way['who']:36} {1 / seconds:6.1f} {1e3 * seconds:8.2f} {seconds / own:8.2f} {100 * way['bandwidth_share']:9.1f} %"


def wrong(report):
    """The ways whose outputs are off."""
    return [f"{way['rows']} rows by {way['who']}" for way in report["logits"] if (way["largest_difference"] or 0) > TOLERANCE]


def finite(report):
    """JSON has no infinity, which a wrong id is off by: it is told as text."""
    for way in report["logits"]:
        if way["largest_difference"] == math.inf:
            way["largest_difference"] = "inf"
    return report


def main():
    options = arguments()
    try:
        check_machine(options.device)
        with tempfile.TemporaryDirectory() as scratch:
            report = compare(options, scratch)
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    off = wrong(report)
    print(json.dumps(finite(report)) if options.json else "\n".join(table(report)))
    for way in off:
        print(f"error: {way}: not what float64 gives", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
