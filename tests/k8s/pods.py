"""Rules about one pod at a time."""

import re

from manifests import (
    ROOT, WORKLOADS, at, container_ports, containers, environment, of_kind, pod_spec, program, quantity,
    services, title,
)

# After the drain's own times the process ends itself (HARD_STOP_SLACK in common/src/serve/process.rs).
HARD_STOP_SECONDS = 10
FOREIGN_VARIABLES = re.compile(r"RUST_LOG|OTEL_\w+|MODEL_\w+|RCLONE_\w+")
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}


def _workloads(objects):
    return [(each, pod_spec(each)) for each in of_kind(objects, *WORKLOADS)]


def _all_containers(objects):
    for workload, _ in _workloads(objects):
        for container in containers(workload):
            yield f"{title(workload)}/{container['name']}", container


def pod_security(objects, _facts):
    """What Pod Security calls restricted, and more: read-only root, no token, no service links."""
    for namespace in of_kind(objects, "Namespace"):
        if at(namespace, "metadata", "labels", "pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {title(namespace)} does not enforce it"
    for workload, spec in _workloads(objects):
        context = at(spec, "securityContext", default={})
        demands = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": at(context, "runAsUser", default=0) > 0,
            "seccompProfile": at(context, "seccompProfile", "type") == "RuntimeDefault",
            "automountServiceAccountToken": spec.get("automountServiceAccountToken") is False,
            "enableServiceLinks": spec.get("enableServiceLinks") is False,
            "host namespaces": not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(),
        }
        yield from (f"{title(workload)}: {what}" for what, holds in demands.items() if not holds)
        for volume in at(spec, "volumes", default=[]):
            if not (volume.keys() - {"name"}) <= RESTRICTED_VOLUMES:
                yield f"{title(workload)}: volume {volume['name']}"
    for name, container in _all_containers(objects):
        context = at(container, "securityContext", default={})
        demands = {
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "own user": not {"runAsUser", "runAsNonRoot", "privileged", "seccompProfile"} & context.keys(),
        }
        yield from (f"{name}: {what}" for what, holds in demands.items() if not holds)


def resources(objects, _facts):
    """Requests and limits everywhere, the latter not below the former; whole cores for what computes."""
    for name, container in _all_containers(objects):
        for resource in ("cpu", "memory"):
            request = at(container, "resources", "requests", resource)
            limit = at(container, "resources", "limits", resource)
            if request is None or limit is None:
                yield f"{name}: no {resource}"
            elif quantity(request) > quantity(limit):
                yield f"{name}: {resource} requests more than its limit"
    for deployment, container in services(objects):
        cores = quantity(at(container, "resources", "limits", "cpu", default=0))
        if not cores or cores % 1:
            yield f"{title(deployment)}: {cores} cores give another number of threads"


def probes(objects, _facts):
    """Start-up and readiness ask whether the model is loaded, liveness whether the process runs."""
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for deployment, container in services(objects):
        name, ports = title(deployment), container_ports(container)
        encrypted = "DSSD_TLS_CERT" in environment(objects, container)
        for kind, path in paths.items():
            probe = at(container, kind, default={})
            by_http = at(probe, "httpGet", "path") == path and at(probe, "httpGet", "port") == "http"
            by_grpc = at(probe, "grpc", "port") == ports.get("grpc")
            if not by_http and not (by_grpc and kind != "livenessProbe"):
                yield f"{name}: {kind} does not ask what it should"
            if by_grpc and encrypted:
                yield f"{name}: {kind} knows no TLS"
        if not {"grpc", "http"} <= ports.keys():
            yield f"{name}: ports without names"


def grace(objects, facts):
    """The kubelet kills later than the process would end itself."""
    for deployment, container in services(objects):
        values = facts[program(container)].variables | environment(objects, container)
        drain = sum(float(values[name]) for name in ("DSSD_DRAIN_DELAY", "DSSD_DRAIN_TIMEOUT"))
        pause = at(container, "lifecycle", "preStop", "sleep", "seconds", default=0)
        bound = pause + drain + HARD_STOP_SECONDS
        given = at(pod_spec(deployment), "terminationGracePeriodSeconds", default=30)
        if given <= bound:
            yield f"{title(deployment)}: {given} s, and the end may take {bound:g} s"
        if not pause:
            yield f"{title(deployment)}: no time to be forgotten"


def settings(objects, facts):
    """Variables and arguments are ones that the binary knows."""
    for name, container in _all_containers(objects):
        known = facts.get(program(container))
        for variable in environment(objects, container):
            if known and variable not in known.variables and not FOREIGN_VARIABLES.fullmatch(variable):
                yield f"{name}: unknown variable {variable}"
            if not known and not FOREIGN_VARIABLES.fullmatch(variable) and variable != "DSSD_MODEL":
                yield f"{name}: variable {variable} is not for it"
        for argument in at(container, "args", default=[]) if known else []:
            if argument.startswith("--") and argument.split("=")[0] not in known.flags:
                yield f"{name}: unknown argument {argument}"


def images(objects, _facts):
    """Pinned tags; ours are of this version, and targets of the Containerfile."""
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    targets = re.findall(r" AS (\S+)", (ROOT / "images/Containerfile").read_text())
    for name, container in _all_containers(objects):
        image, _, tag = container["image"].rpartition(":")
        if not image or tag in ("", "latest"):
            yield f"{name}: image without a version"
        elif program(container):
            number, _, kind = tag.partition("-")
            if number != version or f"{image}-{kind}" not in targets:
                yield f"{name}: {container['image']} is not built"
        elif "." not in image.split("/")[0]:
            yield f"{name}: image without a registry"


def gpu(objects, _facts):
    """Device, image, resource, node and tolerance go together; and no GPU is wanted for a surge."""
    for deployment, container in services(objects):
        spec = pod_spec(deployment)
        limits = at(container, "resources", "limits", default={})
        tolerated = [each.get("key") for each in at(spec, "tolerations", default=[])]
        nodes = at(spec, "nodeSelector", default={})
        signs = {
            "device": environment(objects, container).get("DSSD_DEVICE") == "cuda",
            "image": container["image"].endswith("-cuda"),
            "resource": any(name.startswith("nvidia.com/") for name in limits),
            "node": nodes.get("nvidia.com/gpu.present") == "true",
            "toleration": "nvidia.com/gpu" in tolerated,
        }
        if any(signs.values()) and not all(signs.values()):
            missing = ", ".join(sign for sign, there in signs.items() if not there)
            yield f"{title(deployment)}: a GPU in part, no {missing}"
        if signs["device"] and at(deployment, "spec", "strategy", "rollingUpdate", "maxSurge") != 0:
            yield f"{title(deployment)}: a roll-out wants one more GPU"


def spread(objects, _facts):
    """Replicas spread over nodes and zones."""
    for deployment in of_kind(objects, "Deployment"):
        constraints = at(pod_spec(deployment), "topologySpreadConstraints", default=[])
        keys = {each["topologyKey"] for each in constraints}
        if not {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= keys:
            yield f"{title(deployment)}: spreads over {keys or 'nothing'}"
        for constraint in constraints:
            selector = at(constraint, "labelSelector", "matchLabels", default={})
            if selector != at(deployment, "spec", "selector", "matchLabels"):
                yield f"{title(deployment)}: spreads other pods"


RULES = [pod_security, resources, probes, grace, settings, images, gpu, spread]
