"""Rules about what objects say of each other."""

import re
import urllib.parse

import yaml

from manifests import (
    ROOT, WORKLOADS, at, behind, container_ports, containers, environment, labels, matches, named, of_kind,
    pod_spec, selected, services, title,
)

CLIENT = {"dssd-client": "true"}
CERTIFICATE_FILES = {"tls.crt", "tls.key", "ca.crt"}
README = ROOT / "k8s/README.md"
ADAPTER = ROOT / "k8s/components/autoscaling/adapter.yaml"


def selectors(objects, _facts):
    """Each selector matches pods, and those of one Deployment where it stands for one."""
    for deployment in of_kind(objects, "Deployment"):
        if not matches(at(deployment, "spec", "selector"), labels(deployment)):
            yield f"Deployment {title(deployment)} does not own its pods"
    for service in of_kind(objects, "Service"):
        if len(behind(objects, service)) != 1:
            yield f"Service {title(service)} leads to {len(behind(objects, service))} workloads"
    for budget in of_kind(objects, "PodDisruptionBudget"):
        if len(selected(objects, budget["spec"]["selector"])) != 1:
            yield f"PodDisruptionBudget {title(budget)}"
    for workload in of_kind(objects, *WORKLOADS):
        terms = at(
            pod_spec(workload), "affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", default=[]
        )
        for term in terms:
            if not selected(objects, term["labelSelector"]):
                yield f"{title(workload)} wants to be beside nothing"


def duplicates(objects, _facts):
    """No two objects of a kind have one name, and all are in one namespace."""
    names = [(each["kind"], title(each)) for each in objects]
    yield from (f"{kind} {name} twice" for kind, name in set(names) if names.count((kind, name)) > 1)
    for each in objects:
        if each["kind"] != "Namespace" and not named(objects, "Namespace", at(each, "metadata", "namespace")):
            yield f"{each['kind']} {title(each)} is in another namespace"


def disruption(objects, _facts):
    """Each Deployment has a budget that lets a node be emptied."""
    budgets = of_kind(objects, "PodDisruptionBudget")
    for deployment in of_kind(objects, "Deployment"):
        own = [each for each in budgets if matches(each["spec"]["selector"], labels(deployment))]
        if [at(each, "spec", "maxUnavailable", default=0) >= 1 for each in own] != [True]:
            yield f"{title(deployment)}: {len(own)} budgets"


def ports(objects, _facts):
    """Services and settings name the ports that containers have, and listen on every address."""
    for service in of_kind(objects, "Service"):
        for deployment in behind(objects, service):
            [container] = pod_spec(deployment)["containers"]
            encrypted = "DSSD_TLS_CERT" in environment(objects, container)
            protocols = {"grpc": "https" if encrypted else "kubernetes.io/h2c", "http": "http"}
            for port in service["spec"]["ports"]:
                if container_ports(container).get(port["targetPort"]) != port["port"]:
                    yield f"Service {title(service)}: {port['name']}"
                if port.get("appProtocol") != protocols.get(port["name"]):
                    yield f"Service {title(service)}: protocol of {port['name']}"
    for deployment, container in services(objects):
        values = environment(objects, container)
        for variable, port in (("DSSD_LISTEN", "grpc"), ("DSSD_HTTP_LISTEN", "http")):
            if values.get(variable) != f"0.0.0.0:{container_ports(container).get(port)}":
                yield f"{title(deployment)}: {variable} is {values.get(variable)}"


def drafters(objects, _facts):
    """verify-svc is told the headless Service of its drafters, in the way that these are encrypted."""
    for deployment, container in services(objects):
        values = environment(objects, container)
        if "DSSD_DRAFT" not in values:
            continue
        url = urllib.parse.urlsplit(values["DSSD_DRAFT"])
        service = named(objects, "Service", url.hostname)
        if at(service, "spec", "clusterIP") != "None":
            yield f"{title(deployment)}: {url.hostname} is no headless Service"
            continue
        [drafter] = behind(objects, service)
        [its_container] = pod_spec(drafter)["containers"]
        its_values = environment(objects, its_container)
        if url.port != container_ports(its_container)["grpc"]:
            yield f"{title(deployment)}: port {url.port}"
        if (url.scheme == "https") != ("DSSD_TLS_CERT" in its_values):
            yield f"{title(deployment)}: {url.scheme}"
        demands = {"DSSD_DRAFT_TLS_CERT": "DSSD_TLS_CLIENT_CA", "DSSD_DRAFT_TOKEN_FILE": "DSSD_TOKEN_FILE"}
        for ours, theirs in demands.items():
            if (ours in values) != (theirs in its_values):
                yield f"{title(deployment)}: {ours} without {theirs}, or the reverse"
        if values.get("DSSD_MODEL") != its_values.get("DSSD_MODEL"):
            yield f"{title(deployment)}: another model than its drafters"


def references(objects, _facts):
    """What pods refer to is there: in the manifests, or named in README.md as made by hand."""
    secrets = {at(each, "spec", "secretName") for each in of_kind(objects, "Certificate")}
    by_hand = re.findall(r"Secret\s`([^`]+)`", README.read_text())

    def secret(name):
        return name in secrets or name in by_hand

    for workload in of_kind(objects, *WORKLOADS):
        volumes = {each["name"]: each for each in at(pod_spec(workload), "volumes", default=[])}
        mounted = {mount["name"] for each in containers(workload) for mount in at(each, "volumeMounts", default=[])}
        if mounted != volumes.keys():
            yield f"{title(workload)}: volumes {sorted(mounted ^ volumes.keys())}"
        for name, volume in volumes.items():
            claim = at(volume, "persistentVolumeClaim", "claimName")
            config = at(volume, "configMap", "name")
            if not secret(at(volume, "secret", "secretName")) and "secret" in volume:
                yield f"{title(workload)}: secret of volume {name}"
            if claim and not named(objects, "PersistentVolumeClaim", claim):
                yield f"{title(workload)}: claim {claim}"
            if config and not named(objects, "ConfigMap", config):
                yield f"{title(workload)}: ConfigMap {config}"
        for container in containers(workload):
            for source in at(container, "envFrom", default=[]):
                config, name = at(source, "configMapRef", "name"), at(source, "secretRef", "name")
                if config and not named(objects, "ConfigMap", config) or name and not secret(name):
                    yield f"{title(workload)}: {config or name}"
            for variable in at(container, "env", default=[]):
                name = at(variable, "valueFrom", "secretKeyRef", "name")
                if name and not secret(name):
                    yield f"{title(workload)}: {name}"
                if not name and environment(objects, container)[variable["name"]] is None:
                    yield f"{title(workload)}: {variable['name']} has no value"


def files(objects, _facts):
    """Files that settings name lie on a volume, read only, and certificates have the files that cert-manager makes."""
    for deployment, container in services(objects):
        mounts = {each["mountPath"]: each for each in at(container, "volumeMounts", default=[])}
        volumes = {each["name"]: each for each in at(pod_spec(deployment), "volumes", default=[])}
        values = environment(objects, container)
        paths = {name: value for name, value in values.items() if str(value).startswith("/")}
        for name, path in paths.items():
            folder, _, file = path.rpartition("/")
            mount = mounts.get(folder)
            if not mount or mount.get("readOnly") is not True or "subPath" in mount:
                yield f"{title(deployment)}: {name} is not on a volume to read"
            elif "_TLS_" in name and file not in CERTIFICATE_FILES:
                yield f"{title(deployment)}: {name}: no such file in a certificate's Secret"
            elif "TOKEN" in name and (file != "tokens" or not at(volumes[mount["name"]], "secret")):
                yield f"{title(deployment)}: {name}"


def certificates(objects, _facts):
    """Servers' certificates have the names that they are called by, callers' ones come from the CA that servers ask for."""
    by_secret = {at(each, "spec", "secretName"): each["spec"] for each in of_kind(objects, "Certificate")}
    for certificate in by_secret.values():
        if not named(objects, "Issuer", certificate["issuerRef"]["name"]):
            yield f"{certificate['secretName']}: no issuer"
    for issuer in of_kind(objects, "Issuer"):
        authority = at(issuer, "spec", "ca", "secretName")
        if authority and not at(by_secret, authority, "isCA"):
            yield f"Issuer {title(issuer)}: {authority} is no authority"

    def shown(deployment, variable):
        """The certificate that a setting points at."""
        [container] = pod_spec(deployment)["containers"]
        folder = environment(objects, container).get(variable, "").rpartition("/")[0]
        mounts = {each["mountPath"]: each["name"] for each in at(container, "volumeMounts", default=[])}
        volumes = {each["name"]: each for each in at(pod_spec(deployment), "volumes", default=[])}
        return by_secret.get(at(volumes, mounts.get(folder), "secret", "secretName"))

    for service in of_kind(objects, "Service"):
        [deployment] = behind(objects, service) or [None]
        own = shown(deployment, "DSSD_TLS_CERT") if deployment else None
        if own and title(service) not in at(own, "dnsNames", default=[]):
            yield f"{own['secretName']}: not for {title(service)}"
        if own and "server auth" not in at(own, "usages", default=[]):
            yield f"{own['secretName']}: not for servers"
    verify, draft = (named(objects, "Deployment", f"dssd-{name}") for name in ("verify", "draft"))
    caller = shown(verify, "DSSD_DRAFT_TLS_CERT")
    if caller and "client auth" not in at(caller, "usages", default=[]):
        yield f"{caller['secretName']}: not for clients"
    if caller and caller["issuerRef"] != shown(draft, "DSSD_TLS_CLIENT_CA")["issuerRef"]:
        yield f"{caller['secretName']}: of another authority than drafters ask for"
    if caller and caller["issuerRef"] == shown(verify, "DSSD_TLS_CLIENT_CA")["issuerRef"]:
        yield "certificates of clients would admit to drafters"


def network(objects, _facts):
    """All is closed but: verify to draft, clients to verify, Prometheus to /metrics, DNS for all."""
    policies = of_kind(objects, "NetworkPolicy")
    if not any(
        each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for each in policies
    ):
        yield "nothing is closed by default"
    if not any(each["spec"]["podSelector"] == {} and _opens(each, 53) for each in policies):
        yield "no DNS"
    for policy in policies:
        chosen = at(policy, "spec", "podSelector", default={})
        known = selected(objects, chosen) or at(chosen, "matchLabels") == CLIENT
        if not known:
            yield f"{title(policy)} chooses no pods"
        for rule in at(policy, "spec", "ingress", default=[]):
            if not rule.get("from") or not rule.get("ports"):
                yield f"{title(policy)} lets everybody in"
    yield from _entrances(objects, policies)


def _opens(policy, port):
    return any(
        port in [each["port"] for each in at(rule, "ports", default=[])]
        for rule in at(policy, "spec", "egress", default=[])
    )


def _peers(policies, deployment, direction, port):
    """The peers that policies name for a port of a deployment's pods."""
    key = {"ingress": "from", "egress": "to"}[direction]
    found = []
    for policy in policies:
        if matches(policy["spec"]["podSelector"], labels(deployment)):
            for rule in at(policy, "spec", direction, default=[]):
                if port in [each["port"] for each in at(rule, "ports", default=[])]:
                    # A rule without peers is for everybody.
                    found += rule.get(key) or [{}]
    return found


def _entrances(objects, policies):
    verify, draft = (named(objects, "Deployment", f"dssd-{name}") for name in ("verify", "draft"))
    # Whom a port lets in: a label for each peer's pods.
    allowed = {"draft": labels(verify), "verify": CLIENT}
    for deployment, container in services(objects):
        own = container_ports(container)
        component = labels(deployment).get("app.kubernetes.io/component")
        callers = _peers(policies, deployment, "ingress", own.get("grpc"))
        wanted = allowed.get(component, {})
        if not callers or any(at(each, "podSelector", "matchLabels", default={}) != wanted for each in callers):
            yield f"{title(deployment)}: others call it, or nobody"
        scrapers = _peers(policies, deployment, "ingress", own.get("http"))
        if not scrapers or not all({"namespaceSelector", "podSelector"} <= each.keys() for each in scrapers):
            yield f"{title(deployment)}: others look at its metrics, or nobody"
    drafting = container_ports(pod_spec(draft)["containers"][0])["grpc"]
    if not any(matches(each.get("podSelector"), labels(draft)) for each in _peers(policies, verify, "egress", drafting)):
        yield "verify does not reach draft"


def monitors(objects, _facts):
    """Each pod is scraped once, by a port that its Service has."""
    for monitor in of_kind(objects, "ServiceMonitor"):
        chosen = [
            each for each in of_kind(objects, "Service")
            if matches(monitor["spec"]["selector"], at(each, "metadata", "labels", default={}))
        ]
        pods = [title(workload) for each in chosen for workload in behind(objects, each)]
        if sorted(pods) != sorted(title(each) for each in of_kind(objects, "Deployment")):
            yield f"{title(monitor)} scrapes {pods}"
        for endpoint in monitor["spec"]["endpoints"]:
            for service in chosen:
                if endpoint["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                    yield f"{title(monitor)}: {title(service)} has no port {endpoint['port']}"


def autoscaling(objects, facts):
    """Autoscalers read gauges that the pods they scale export, through rules of the adapter, and own the number of replicas."""
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = named(objects, "Deployment", at(scaler, "spec", "scaleTargetRef", "name"))
        if not target:
            yield f"{title(scaler)} scales nothing"
            continue
        if "replicas" in target["spec"]:
            yield f"{title(target)} has a number of its own"
        if at(scaler, "spec", "minReplicas", default=1) >= scaler["spec"]["maxReplicas"]:
            yield f"{title(scaler)} has no room"
        [container] = pod_spec(target)["containers"]
        exported = facts[container["image"].rpartition(":")[0]]
        for metric in scaler["spec"]["metrics"]:
            name = at(metric, "pods", "metric", "name")
            made = [each for each in rules if name == at(each, "name", "as", default=_series(each))]
            series = re.findall(r"dssd_\w+", at(made, 0, "seriesQuery", default="") + at(made, 0, "metricsQuery", default=""))
            if len(made) != 1 or {exported.metrics.get(each) for each in series} != {"gauge"}:
                yield f"{title(scaler)}: {name} is no gauge of {title(target)}"
            limit = 1 if "ratio" in name else float(exported.variables["DSSD_MAX_SEQUENCES"])
            value = at(metric, "pods", "target", "averageValue")
            if not 0 < _number(value) < limit:
                yield f"{title(scaler)}: {name} never reaches {value}"


def _series(rule):
    return rule["seriesQuery"].partition("{")[0]


def _number(text):
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


RULES = [
    selectors, duplicates, disruption, ports, drafters, references, files, certificates, network, monitors, autoscaling,
]
