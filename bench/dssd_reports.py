"""What `dssd` reports of a GPU: its JSON, read from files or from runs of its own."""

import json
import subprocess


class Unusable(Exception):
    """What is given cannot be compared; the exit status is 2."""


def run(dssd, *arguments):
    """The report of one bench of `dssd`."""
    # Whole: a name without a folder would be looked for elsewhere.
    command = [str(dssd.absolute()), "bench", *arguments, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unusable(f"{dssd}: {error.strerror}") from error
    if done.returncode != 0:
        raise Unusable(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return parse(done.stdout, " ".join(command))


def read(path):
    """The report in a file."""
    try:
        return parse(path.read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path}: {error}") from error


def parse(text, source):
    try:
        report = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unusable(f"{source}: no JSON: {error}") from error
    if not isinstance(report, dict):
        raise Unusable(f"{source}: no report of dssd")
    return report


def key(report, name, kind, source):
    """A value that must be there."""
    value = report.get(name) if isinstance(report, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unusable(f"{source}: no {name}: is it of `dssd bench … --device cuda --json`?")
    return value


def timings(report):
    """Microseconds of each kernel by its name, of `bench kernels --device cuda` or `gpu-check`."""
    kernels = key(report, "timings", list, "the kernels")
    return {key(kernel, "name", str, "a kernel"): key(kernel, "microseconds", (int, float), "a kernel") for kernel in kernels}


def microseconds(report, name):
    found = timings(report).get(name)
    if found is None:
        raise Unusable(f"the kernels: no timing of `{name}`")
    return found


class Decoding:
    """One sequence of plain decoding, of `bench decode --device cuda`."""

    def __init__(self, report):
        source = "the decoding"
        self.gpu = key(report, "gpu", str, source)
        self.shape = key(report, "shape", str, source)
        if (dtype := key(report, "dtype", str, source)) != "bf16":
            raise Unusable(f"{source}: is in {dtype}, others run in bf16")
        self.weight_bytes = key(report, "weight_bytes", int, source)
        self.read_bandwidth = key(report, "read_bandwidth", (int, float), source)
        batches = key(report, "batches", list, source)
        one = [batch for batch in batches if key(batch, "batch", int, source) == 1]
        if not one:
            raise Unusable(f"{source}: no batch of 1")
        self.step_seconds = key(one[0], "step_seconds", (int, float), source)

    def share(self, step_seconds):
        """Time that reading the weights would take, to that of a step."""
        return self.weight_bytes / self.read_bandwidth / step_seconds
