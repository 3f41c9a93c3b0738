"""Starts and stops the two services under test."""

import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile

import grpc

START_SECONDS = 60
STOP_SECONDS = 20


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Service:
    """One running service."""

    def __init__(self, binary, *flags):
        self.name = binary.name
        self.address = f"127.0.0.1:{free_port()}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix=f"{self.name}-", suffix=".log")
        # Settings of the caller's shell must not change what is tested.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DSSD_")}
        command = [binary, "--listen", self.address, *flags]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=environment
        )

    def wait_until_connected(self):
        """Waits until the port accepts a connection, as long as the process lives."""
        with grpc.insecure_channel(self.address) as channel:
            ready = grpc.channel_ready_future(channel)
            for _ in range(START_SECONDS):
                if self.process.poll() is not None:
                    raise AssertionError(f"{self.name} ended with {self.process.returncode}\n{self.read_log()}")
                with contextlib.suppress(grpc.FutureTimeoutError):
                    return ready.result(timeout=1)
        raise AssertionError(f"{self.name} does not answer\n{self.read_log()}")

    def stop(self):
        """Asks the process to end and returns its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def read_log(self):
        return pathlib.Path(self.log.name).read_text()


@contextlib.contextmanager
def running_pair(binaries):
    """verify-svc and draft-svc on the demo model; both must end with status 0 when stopped."""
    services = []
    try:
        draft = Service(binaries / "draft-svc")
        services.append(draft)
        verify = Service(binaries / "verify-svc", "--draft", f"http://{draft.address}")
        services.append(verify)
        for service in services:
            service.wait_until_connected()
        yield verify, draft
    except BaseException:
        for service in services:
            print(f"--- log of {service.name}\n{service.read_log()}")
        raise
    finally:
        statuses = {service.name: service.stop() for service in reversed(services)}
    assert all(status == 0 for status in statuses.values()), f"exit statuses: {statuses}"
