"""Manifests broken on purpose: what is changed, and the rule that must notice."""

import copy
import dataclasses
import re

from manifests import title

DELETE = object()
HASH = re.compile(r"-(?=[a-z0-9]*[0-9])[a-z0-9]{10}$")
DRAFT, VERIFY = ("Deployment", "dssd-draft"), ("Deployment", "dssd-verify")
POD = ("spec", "template", "spec")
SERVICE = (*POD, "containers", 0)
INIT = (*POD, "initContainers", 0)


@dataclasses.dataclass(frozen=True)
class Mutation:
    """In a render, of the object by a name (a generated one without its hash), the value at a path."""

    rule: str
    render: str
    subject: tuple
    path: tuple
    value: object = DELETE

    def __str__(self):
        steps = ".".join(str(step) for step in self.path[-3:])
        return f"{self.rule}: {self.subject[1]} {steps}"

    def applied(self, objects):
        broken = copy.deepcopy(objects)
        kind, name = self.subject
        [each] = [each for each in broken if each["kind"] == kind and HASH.sub("", title(each)) == name]
        *path, last = self.path
        value = each
        for step in path:
            value = value[step]
        if self.value is DELETE:
            del value[last]
        else:
            value[last] = self.value
        return broken


def _of(rule, render, *changes):
    return [Mutation(rule, render, *change) for change in changes]


_NETWORK = [
    (("NetworkPolicy", "deny-all"), ("spec", "policyTypes"), ["Ingress"]),
    (("NetworkPolicy", "dns"), ("spec", "podSelector"), {"matchLabels": {"app": "x"}}),
    (("NetworkPolicy", "dns"), ("spec", "egress", 0, "ports"), [{"port": 54}]),
    (("NetworkPolicy", "draft"), ("spec", "ingress", 0, "from", 0, "podSelector"), {}),
    (("NetworkPolicy", "draft"), ("spec", "ingress", 0, "from")),
    (("NetworkPolicy", "draft"), ("spec", "ingress", 0, "ports", 0, "port"), 50051),
    (("NetworkPolicy", "draft"), ("spec", "ingress", 1, "from", 0, "namespaceSelector")),
    (("NetworkPolicy", "verify"), ("spec", "ingress", 0, "from", 1, "podSelector")),
    (("NetworkPolicy", "verify"), ("spec", "ingress", 0, "ports")),
    (("NetworkPolicy", "verify"), ("spec", "egress", 0, "ports", 0, "port"), 50051),
    (("NetworkPolicy", "clients"), ("spec", "podSelector", "matchLabels", "dssd-client"), "yes"),
]
_CUSTOM = [
    (("Certificate", "dssd-draft-server"), ("spec", "secretName")),
    (("Certificate", "dssd-draft-server"), ("spec", "usages"), ["server"]),
    (("Issuer", "dssd-draft-ca"), ("spec", "ca"), {}),
    (("ServiceMonitor", "dssd"), ("spec", "endpoints", 0, "port"), 9090),
    (("PrometheusRule", "dssd"), ("spec", "groups", 0, "rules", 0, "expr")),
    (("HorizontalPodAutoscaler", "dssd-draft"), ("spec", "maxReplicas"), "8"),
]

MUTATIONS = [
    *_of(
        "schema", "cpu-demo",
        (DRAFT, (*SERVICE, "livenesProbe"), {}),
        (DRAFT, ("spec", "replicas"), "2"),
        (("Service", "dssd-draft"), ("spec", "clusterIp"), "None"),
        (("NetworkPolicy", "draft"), ("spec", "ingress", 0, "from", 0, "podSelectors"), {}),
        (("PodDisruptionBudget", "dssd-draft"), ("spec", "maxUnavailable"), [1]),
        (("ConfigMap", "draft-settings"), ("data", "DSSD_THREADS"), 2),
        (("Namespace", "dssd"), ("metadata", "labels"), ["restricted"]),
        (("Job", "dssd-check-"), ("spec", "backoffLimit"), "none"),
    ),
    *_of("schema", "production", *_CUSTOM, (("PersistentVolumeClaim", "dssd-model"), ("spec", "accessMode"), "x")),
    *_of(
        "pod_security", "cpu-demo",
        (("Namespace", "dssd"), ("metadata", "labels", "pod-security.kubernetes.io/enforce"), "baseline"),
        (DRAFT, (*POD, "securityContext", "runAsNonRoot")),
        (DRAFT, (*POD, "securityContext", "runAsUser"), 0),
        (DRAFT, (*POD, "securityContext", "seccompProfile", "type"), "Unconfined"),
        (DRAFT, (*POD, "automountServiceAccountToken")),
        (DRAFT, (*POD, "enableServiceLinks")),
        (DRAFT, (*POD, "hostNetwork"), True),
        (DRAFT, (*POD, "volumes"), [{"name": "host", "hostPath": {"path": "/"}}]),
        (VERIFY, (*SERVICE, "securityContext", "allowPrivilegeEscalation"), True),
        (VERIFY, (*SERVICE, "securityContext", "readOnlyRootFilesystem")),
        (VERIFY, (*SERVICE, "securityContext", "capabilities")),
        (VERIFY, (*SERVICE, "securityContext", "privileged"), True),
        (("Job", "dssd-check-"), (*SERVICE, "securityContext")),
    ),
    *_of("pod_security", "gpu", (DRAFT, (*INIT, "securityContext"))),
    *_of(
        "resources", "gpu",
        (DRAFT, (*SERVICE, "resources", "limits", "memory")),
        (DRAFT, (*SERVICE, "resources", "requests", "cpu")),
        (DRAFT, (*SERVICE, "resources", "requests", "memory"), "64Gi"),
        (DRAFT, (*SERVICE, "resources", "limits", "cpu"), "2500m"),
        (VERIFY, (*INIT, "resources")),
    ),
    *_of(
        "probes", "mtls",
        (DRAFT, (*SERVICE, "startupProbe")),
        (DRAFT, (*SERVICE, "readinessProbe", "httpGet", "path"), "/livez"),
        (DRAFT, (*SERVICE, "livenessProbe", "httpGet", "path"), "/readyz"),
        (DRAFT, (*SERVICE, "livenessProbe", "httpGet", "port"), "grpc"),
        (VERIFY, (*SERVICE, "readinessProbe"), {"grpc": {"port": 50051}}),
        (VERIFY, (*SERVICE, "ports", 1, "name"), "web"),
    ),
    *_of(
        "probes", "cpu-demo",
        (DRAFT, (*SERVICE, "readinessProbe", "grpc", "port"), 50051),
        (DRAFT, (*SERVICE, "livenessProbe"), {"grpc": {"port": 50052}}),
    ),
    *_of(
        "grace", "cpu-demo",
        (VERIFY, (*POD, "terminationGracePeriodSeconds"), 42),
        (VERIFY, (*POD, "terminationGracePeriodSeconds")),
        (VERIFY, (*SERVICE, "lifecycle")),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAIN_TIMEOUT"), "60"),
    ),
    *_of(
        "settings", "cpu-demo",
        (("ConfigMap", "draft-settings"), ("data", "DSSD_HTTPLISTEN"), "x"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_WORK_AHEAD"), "off"),
        (DRAFT, (*SERVICE, "env"), [{"name": "PORT", "value": "1"}]),
        (VERIFY, (*SERVICE, "args"), ["--modle=x"]),
        (("Job", "dssd-check-"), (*SERVICE, "args", 1), "--endpiont"),
    ),
    *_of("settings", "gpu", (("ConfigMap", "model"), ("data", "DSSD_DEVICE"), "cuda")),
    *_of(
        "images", "gpu",
        (DRAFT, (*SERVICE, "image"), "draft-svc:latest"),
        (DRAFT, (*SERVICE, "image"), "draft-svc:0.0.9-cuda"),
        (DRAFT, (*SERVICE, "image"), "draft-svc:0.1.0-rocm"),
        (DRAFT, (*SERVICE, "image"), "verify"),
        (DRAFT, (*INIT, "image"), "curl:8"),
    ),
    *_of(
        "gpu", "gpu",
        (VERIFY, (*SERVICE, "image"), "verify-svc:0.1.0-cpu"),
        (VERIFY, (*SERVICE, "resources", "limits", "nvidia.com/gpu")),
        (VERIFY, (*POD, "nodeSelector", "nvidia.com/gpu.present")),
        (VERIFY, (*POD, "tolerations")),
        (VERIFY, ("spec", "strategy", "rollingUpdate", "maxSurge"), 1),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DEVICE"), "cpu"),
    ),
    *_of(
        "spread", "cpu-demo",
        (DRAFT, (*POD, "topologySpreadConstraints", 1)),
        (DRAFT, (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"), {"a": "b"}),
    ),
    *_of(
        "selectors", "gpu-shared",
        (DRAFT, ("spec", "template", "metadata", "labels", "app.kubernetes.io/component"), "drafts"),
        (("Service", "dssd-draft"), ("spec", "selector"), {"app.kubernetes.io/name": "dssd"}),
        (("Service", "dssd-draft"), ("spec", "selector"), {"app": "draft"}),
        (("PodDisruptionBudget", "dssd-draft"), ("spec", "selector", "matchLabels"), {"app": "draft"}),
        (
            DRAFT,
            (*POD, "affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", 0, "labelSelector"),
            {"matchLabels": {"app": "verify"}},
        ),
    ),
    *_of(
        "duplicates", "cpu-demo",
        (("PodDisruptionBudget", "dssd-draft"), ("metadata", "name"), "dssd-verify"),
        (VERIFY, ("metadata", "namespace"), "default"),
    ),
    *_of(
        "disruption", "cpu-demo",
        (("PodDisruptionBudget", "dssd-draft"), ("spec", "maxUnavailable"), 0),
        (("PodDisruptionBudget", "dssd-draft"), ("spec", "selector", "matchLabels"), {"app": "draft"}),
    ),
    *_of(
        "ports", "mtls",
        (("Service", "dssd-draft"), ("spec", "ports", 0, "targetPort"), "rpc"),
        (("Service", "dssd-draft"), ("spec", "ports", 0, "port"), 443),
        (("Service", "dssd-draft"), ("spec", "ports", 0, "appProtocol"), "kubernetes.io/h2c"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_LISTEN"), "127.0.0.1:50051"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_HTTP_LISTEN"), "0.0.0.0:9091"),
    ),
    *_of("ports", "cpu-demo", (("Service", "dssd-draft"), ("spec", "ports", 0, "appProtocol"), "https")),
    *_of(
        "drafters", "mtls",
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAFT"), "https://drafters:50052"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAFT"), "https://dssd-verify:50051"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAFT"), "http://dssd-draft:50052"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAFT"), "https://dssd-draft:50051"),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_DRAFT_TOKEN_FILE")),
        (("ConfigMap", "verify-settings"), ("data", "DSSD_MODEL"), "/models/other"),
        (("Service", "dssd-draft"), ("spec", "clusterIP")),
    ),
    *_of(
        "references", "production",
        (VERIFY, (*POD, "volumes", 0, "secret", "secretName"), "tokens"),
        (VERIFY, (*SERVICE, "volumeMounts", 0, "name"), "certificate"),
        (VERIFY, (*SERVICE, "envFrom", 0, "configMapRef", "name"), "settings"),
        (VERIFY, (*SERVICE, "env", 0, "valueFrom", "configMapKeyRef", "key"), "MODEL"),
        (VERIFY, (*INIT, "env", 0, "valueFrom", "secretKeyRef", "name"), "token"),
        (("PersistentVolumeClaim", "dssd-model"), ("metadata", "name"), "models"),
        (("ConfigMap", "model-fetch"), ("metadata", "name"), "fetch"),
        (("Certificate", "dssd-draft-client"), ("spec", "secretName"), "other"),
    ),
    *_of(
        "files", "mtls",
        (("ConfigMap", "draft-settings"), ("data", "DSSD_TLS_CERT"), "/tls/tls.crt"),
        (("ConfigMap", "draft-settings"), ("data", "DSSD_TLS_CERT"), "/tls/server/cert.pem"),
        (("ConfigMap", "draft-settings"), ("data", "DSSD_TOKEN_FILE"), "/tokens/draft/token"),
        (DRAFT, (*SERVICE, "volumeMounts", 0, "readOnly"), False),
        (DRAFT, (*SERVICE, "volumeMounts", 0, "subPath"), "tokens"),
    ),
    *_of(
        "certificates", "mtls",
        (("Certificate", "dssd-draft-server"), ("spec", "dnsNames"), ["draft"]),
        (("Certificate", "dssd-verify-server"), ("spec", "dnsNames"), ["dssd-verify"]),
        (("Certificate", "dssd-verify-server"), ("spec", "usages"), ["client auth"]),
        (("Certificate", "dssd-draft-client"), ("spec", "usages"), ["server auth"]),
        (("Certificate", "dssd-draft-client"), ("spec", "issuerRef", "name"), "dssd-verify-ca"),
        (("Certificate", "dssd-verify-server"), ("spec", "issuerRef", "name"), "dssd-draft-ca"),
        (("Certificate", "dssd-draft-server"), ("spec", "issuerRef", "name"), "letsencrypt"),
        (("Issuer", "dssd-draft-ca"), ("spec", "ca", "secretName"), "dssd-draft-server"),
    ),
    *_of("network", "cpu-demo", *_NETWORK),
    *_of(
        "monitors", "production",
        (("ServiceMonitor", "dssd"), ("spec", "selector", "matchLabels"), {"app.kubernetes.io/name": "dssd"}),
        (("ServiceMonitor", "dssd"), ("spec", "selector", "matchLabels", "app.kubernetes.io/component"), "draft"),
        (("ServiceMonitor", "dssd"), ("spec", "endpoints", 0, "port"), "metrics"),
    ),
    *_of(
        "autoscaling", "production",
        (("HorizontalPodAutoscaler", "dssd-draft"), ("spec", "scaleTargetRef", "name"), "draft"),
        (("HorizontalPodAutoscaler", "dssd-draft"), ("spec", "minReplicas"), 8),
        (VERIFY, ("spec", "replicas"), 2),
        (
            ("HorizontalPodAutoscaler", "dssd-draft"),
            ("spec", "metrics", 0, "pods", "metric", "name"), "dssd_kv_cache_usage_ratio",
        ),
        (("HorizontalPodAutoscaler", "dssd-draft"), ("spec", "metrics", 0, "pods", "metric", "name"), "dssd_sequences"),
        (("HorizontalPodAutoscaler", "dssd-draft"), ("spec", "metrics", 0, "pods", "target", "averageValue"), "64"),
        (("HorizontalPodAutoscaler", "dssd-verify"), ("spec", "metrics", 1, "pods", "target", "averageValue"), "75"),
    ),
]
