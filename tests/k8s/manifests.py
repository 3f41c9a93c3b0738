"""Rendered manifests, and what can be looked up in them."""

import functools
import os
import pathlib
import re
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OVERLAYS = sorted((ROOT / "k8s/overlays").iterdir())
# What overlays leave out, and combinations that a cluster may want.
COMPOSITIONS = sorted((ROOT / "tests/k8s/compositions").iterdir())
WORKLOADS = ("Deployment", "Job")


@functools.cache
def rendered(folder):
    kubectl = os.environ["DSSD_KUBECTL"]
    built = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, f"{folder} does not build:\n{built.stderr}"
    return built.stdout


def render(folder):
    """The objects of a kustomization, new ones each time."""
    return [each for each in yaml.safe_load_all(rendered(folder)) if each]


def renders():
    """All that is deployed, by name. The check is a client of the demo."""
    found = {folder.name: render(folder) for folder in [*OVERLAYS, *COMPOSITIONS]}
    check = (ROOT / "k8s/check.yaml").read_text()
    found["cpu-demo"] += yaml.safe_load_all(check)
    return found


def of_kind(objects, *kinds):
    return [each for each in objects if each["kind"] in kinds]


def named(objects, kind, name):
    """The object, or None."""
    return next((each for each in of_kind(objects, kind) if title(each) == name), None)


def title(each):
    metadata = each["metadata"]
    return metadata.get("name") or metadata["generateName"]


def at(value, *path, default=None):
    """What stands at a path of keys and positions, or the default."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return default
    return default if value is None else value


def template(workload):
    return workload["spec"]["template"]


def pod_spec(workload):
    return template(workload)["spec"]


def labels(workload):
    return at(template(workload), "metadata", "labels", default={})


def containers(workload):
    """Init containers and containers."""
    spec = pod_spec(workload)
    return [*at(spec, "initContainers", default=[]), *spec["containers"]]


def services(objects):
    """Deployments with the one container of each that serves."""
    for deployment in of_kind(objects, "Deployment"):
        for container in pod_spec(deployment)["containers"]:
            yield deployment, container


def program(container):
    """The binary of ours that an image runs, or None."""
    name = container["image"].rsplit(":", 1)[0]
    return name if name in ("draft-svc", "verify-svc", "dssd") else None


def matches(selector, with_labels):
    wanted = at(selector, "matchLabels", default={})
    return all(with_labels.get(key) == value for key, value in wanted.items())


def selected(objects, selector):
    """Workloads whose pods a selector matches."""
    return [each for each in of_kind(objects, *WORKLOADS) if matches(selector, labels(each))]


def behind(objects, service):
    """Workloads that a Service leads to."""
    return selected(objects, {"matchLabels": at(service, "spec", "selector", default={})})


def environment(objects, container):
    """What the kubelet sets: ConfigMaps, then the container's own variables. Those out of Secrets have no value here."""
    found = {}
    for source in at(container, "envFrom", default=[]):
        config = named(objects, "ConfigMap", at(source, "configMapRef", "name"))
        found |= at(config, "data", default={})
    for variable in at(container, "env", default=[]):
        reference = at(variable, "valueFrom", "configMapKeyRef", default={})
        config = named(objects, "ConfigMap", reference.get("name"))
        from_config = at(config, "data", reference.get("key"))
        found[variable["name"]] = variable.get("value", from_config)
    return found


def container_ports(container):
    return {each["name"]: each["containerPort"] for each in at(container, "ports", default=[])}


def quantity(text):
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    units = {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}
    return float(number) * units[unit]
