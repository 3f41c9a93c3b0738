"""Pods of a render as local processes: the settings, probes and end that manifests name, on free local ports."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from binaries import FOLDER
from manifests import at, container_ports, environment, named, of_kind, pod_spec, program, title

LOOPBACK = "127.0.0.1"
# What the log says beside the address that the system chose.
LISTENS = {"listening": "grpc", "probes and metrics": "http"}


def link_variables(objects):
    """What Kubernetes would set for every Service if `enableServiceLinks` were on, for headless ones too."""
    found = {}
    for service in of_kind(objects, "Service"):
        prefix = title(service).upper().replace("-", "_")
        for port in service["spec"]["ports"]:
            number, target = port["port"], f"tcp://10.0.0.1:{port['port']}"
            found |= {
                f"{prefix}_SERVICE_HOST": "10.0.0.1", f"{prefix}_SERVICE_PORT": str(number),
                f"{prefix}_SERVICE_PORT_{port['name'].upper()}": str(number), f"{prefix}_PORT": target,
                f"{prefix}_PORT_{number}_TCP": target, f"{prefix}_PORT_{number}_TCP_PROTO": "tcp",
                f"{prefix}_PORT_{number}_TCP_PORT": str(number), f"{prefix}_PORT_{number}_TCP_ADDR": "10.0.0.1",
            }
    return found


class Pod:
    """A running pod of a Deployment. `secrets` has folders by the name of a Secret."""

    def __init__(self, objects, deployment, peers=None, secrets=None):
        self.spec = pod_spec(named(objects, "Deployment", deployment))
        [self.container] = self.spec["containers"]
        self.log, self.ports = [], {}
        self._found = queue.SimpleQueue()
        settings = environment(objects, self.container)
        values = {name: self._local(name, value, peers or {}, secrets or {}) for name, value in settings.items()}
        self._process = subprocess.Popen(
            [FOLDER / program(self.container), *at(self.container, "args", default=[])],
            env={"PATH": os.environ["PATH"]} | link_variables(objects) | values,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        threading.Thread(target=self._read_log, daemon=True).start()
        while len(self.ports) < len(LISTENS):
            found = self._found.get(timeout=60)
            assert found, f"{deployment} ended before it listened:\n{''.join(self.log)}"
            self.ports |= found

    def _local(self, name, value, peers, secrets):
        """A setting with hosts and ports of this machine, and folders in place of volumes."""
        if name in ("DSSD_LISTEN", "DSSD_HTTP_LISTEN"):
            return f"{LOOPBACK}:0"
        if name == "DSSD_DRAFT":
            url = urllib.parse.urlsplit(value)
            return f"{url.scheme}://{peers[url.hostname].address('grpc')}"
        for mount in at(self.container, "volumeMounts", default=[]):
            volume = next(each for each in self.spec["volumes"] if each["name"] == mount["name"])
            secret = at(volume, "secret", "secretName")
            value = value.replace(mount["mountPath"] + "/", f"{secrets.get(secret)}/")
        return value

    def _read_log(self):
        for line in self._process.stderr:
            self.log.append(line)
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
                fields = json.loads(line)["fields"]
                self._found.put({LISTENS[fields["message"]]: fields["address"].rpartition(":")[2]})
        self._found.put(None)

    def address(self, port):
        return f"{LOOPBACK}:{self.ports[port]}"

    def probe(self, kind):
        """Whether a probe of the container succeeds, asked as the kubelet would."""
        probe = self.container[kind]
        if "httpGet" in probe:
            url = f"http://{self.address(probe['httpGet']['port'])}{probe['httpGet']['path']}"
            try:
                return urllib.request.urlopen(url, timeout=5).status == 200
            except urllib.error.URLError:
                return False
        names = {number: name for name, number in container_ports(self.container).items()}
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        with grpc.insecure_channel(self.address(names[probe["grpc"]["port"]])) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def start_up(self):
        """Waits until it is ready, as long as the start-up probe allows."""
        probe = self.container["startupProbe"]
        seconds = at(probe, "periodSeconds", default=10) * at(probe, "failureThreshold", default=3)
        wait_for(lambda: self.probe("startupProbe"), seconds, "the start-up probe")

    def metric(self, name):
        text = urllib.request.urlopen(f"http://{self.address('http')}/metrics", timeout=5).read().decode()
        [value] = [line.split()[1] for line in text.splitlines() if line.startswith(name + "{")]
        return float(value)

    def peak_bytes(self):
        """Most memory that it had so far."""
        with open(f"/proc/{self._process.pid}/status", encoding="ascii") as status:
            [line] = [line for line in status if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def pause(self):
        """The hook before the end; returns what remains of the grace period."""
        seconds = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(seconds)
        return self.spec["terminationGracePeriodSeconds"] - seconds

    def terminate(self):
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds):
        """The exit status; fails if it takes longer."""
        return self._process.wait(seconds)

    def close(self):
        self._process.kill()
        self._process.wait()


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
