"""Starts and stops the two services under test."""

import collections
import contextlib
import json
import os
import queue
import subprocess
import threading

START_SECONDS = 60
STOP_SECONDS = 20
# What the log says beside an address.
GRPC = "listening"
HTTP = "probes and metrics"

Pair = collections.namedtuple("Pair", ["verify", "draft", "verify_http"])


class Service:
    """One running service, on a port that the system chose unless told."""

    def __init__(self, binary, *flags, listen="127.0.0.1:0"):
        self.name = binary.name
        self.log = []
        self._addresses = {message: queue.SimpleQueue() for message in (GRPC, HTTP)}
        # Settings of the caller's shell must not change what is tested.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DSSD_")}
        environment["RUST_LOG"] = "info"
        self._process = subprocess.Popen(
            [
                binary, "--listen", listen, "--http-listen", "127.0.0.1:0",
                "--log-format", "json", *flags,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self):
        for line in self._process.stdout:
            self.log.append(line)
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
                fields = json.loads(line)["fields"]
                self._addresses[fields["message"]].put(fields["address"])
        for addresses in self._addresses.values():
            addresses.put(None)

    def wait_for_address(self, message):
        """The address that the service logs, with this message, once it listens."""
        address = self._addresses[message].get(timeout=START_SECONDS)
        assert address, f"{self.name} ended before it listened:\n{''.join(self.log)}"
        return address

    def stop(self):
        """Asks the process to end and returns its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        """Ends the process without a word, and returns its exit status."""
        self._process.kill()
        return self._process.wait()


@contextlib.contextmanager
def running(binary, *flags, listen="127.0.0.1:0"):
    """A service, which must end with status 0."""
    service = Service(binary, *flags, listen=listen)
    try:
        yield service
    except BaseException:
        print(f"--- log of {service.name}\n{''.join(service.log)}")
        raise
    finally:
        status = service.stop()
    assert status == 0, f"{service.name} ended with status {status}"


@contextlib.contextmanager
def running_pair(binaries, *flags):
    """Addresses of both services on the demo model; verify-svc has more flags."""
    with running(binaries / "draft-svc") as drafter:
        draft = drafter.wait_for_address(GRPC)
        with running(binaries / "verify-svc", "--draft", f"http://{draft}", *flags) as verifier:
            yield Pair(verifier.wait_for_address(GRPC), draft, verifier.wait_for_address(HTTP))
