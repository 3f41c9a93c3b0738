#!/usr/bin/env python3
"""Whether the pair's memory stays flat under load: resident memory of both services over time.

Starts the release binaries of this checkout on free ports, finds the saturated rate with a short
ladder, then loads them at a share of it in an open loop, and reads the resident memory of both
processes every few seconds. Exits with 1 if one of them grew more than allowed after the warm-up.

Example: cargo build --release && bench/soak.py --minutes 30
"""

import argparse
import json
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / "target" / "release", help="folder of dssd, draft-svc and verify-svc")
    parser.add_argument("--minutes", type=float, default=30.0, help="time under load")
    parser.add_argument("--share", type=float, default=0.8, help="of the saturated rate")
    parser.add_argument("--settled", type=float, default=5.0, help="minutes after which memory must be flat")
    parser.add_argument("--growth", type=float, default=0.02, help="allowed after that, as a share")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two readings")
    return parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} is gone")


class Service:
    """One service as a process of its own, without its HTTP port, its KV cache in memory from the start."""

    def __init__(self, binaries, name, *flags):
        self.name = name
        self.address = f"127.0.0.1:{free_port()}"
        command = [binaries / name, "--listen", self.address, "--http-listen", "off", "--preallocate-kv", "on", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def wait_for_port(self, seconds=60):
        host, port = self.address.split(":")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} does not listen within {seconds} s")

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=60)


def load(binaries, endpoint, *flags):
    command = [binaries / "dssd", "bench", "load", "--endpoint", endpoint, "--json", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def saturated_rate(binaries, endpoint):
    ladder = load(binaries, endpoint, "--streams", "8,32", "--repeats", "1", "--seconds", "10")
    report, _ = ladder.communicate(timeout=600)
    if ladder.returncode != 0:
        raise RuntimeError("the ladder failed")
    return json.loads(report)["saturation"]["requests_per_second"]


def growth(readings, settled):
    """Of the mean of the last tenth over the mean of the tenth that follows `settled` seconds."""
    after = [resident for seconds, resident in readings if seconds >= settled]
    tenth = max(1, len(after) // 10)
    mean = lambda part: sum(part) / len(part)
    return mean(after[-tenth:]) / mean(after[:tenth]) - 1


def soak(options, services):
    endpoint = f"http://{services[-1].address}"
    rate = options.share * saturated_rate(options.binaries, endpoint)
    seconds = options.minutes * 60
    flags = ("--no-ladder", "--rate", f"{rate:.3f}", "--duration", str(seconds))
    generator = load(options.binaries, endpoint, *flags)
    readings = {service.name: [] for service in services}
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds and generator.poll() is None:
        for service in services:
            readings[service.name].append((elapsed, resident_bytes(service.process.pid)))
        time.sleep(options.every)
    report, _ = generator.communicate(timeout=600)
    if generator.returncode != 0:
        raise RuntimeError("the open loop failed")
    return rate, readings, json.loads(report)["open_loop"]


def main():
    options = arguments()
    if options.settled >= options.minutes:
        sys.exit("--settled must be less than --minutes: nothing would be left to measure")
    drafter = Service(options.binaries, "draft-svc")
    services = [drafter, Service(options.binaries, "verify-svc", "--draft", f"http://{drafter.address}")]
    try:
        for service in services:
            service.wait_for_port()
        rate, readings, open_loop = soak(options, services)
    finally:
        statuses = {service.name: service.stop() for service in reversed(services)}
    grown = {name: growth(values, options.settled * 60) for name, values in readings.items()}
    print(json.dumps({
        "requests_per_second": rate,
        "minutes": options.minutes,
        "growth_after_settling": grown,
        "resident_bytes": {name: [resident for _, resident in values[:: max(1, len(values) // 30)]] for name, values in readings.items()},
        "exit_statuses": statuses,
        "open_loop": open_loop,
    }))
    flat = all(share < options.growth for share in grown.values())
    sys.exit(0 if flat and not any(statuses.values()) else 1)


if __name__ == "__main__":
    main()
