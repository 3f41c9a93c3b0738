"""Rule: every object is one that the API server takes, by schema."""

import functools
import json

import jsonschema
import kubernetes_validate

from manifests import title

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))


def _object(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_DURATION = {"type": "string", "pattern": r"^([0-9]+[hms])+$"}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
_RULE = _object(
    ["alert", "expr", "annotations", "labels"],
    alert=_TEXT, expr=_TEXT, labels=_LABELS, annotations=_LABELS, **{"for": _DURATION},
)
# The fields of custom resources that are used here, with their types by the projects' documents.
CUSTOM = {
    "Issuer": _object([], selfSigned=_object([]), ca=_object(["secretName"], secretName=_TEXT))
    | {"minProperties": 1, "maxProperties": 1},
    "Certificate": _object(
        ["secretName", "issuerRef"],
        secretName=_TEXT, commonName=_TEXT, dnsNames=_TEXTS, isCA={"type": "boolean"},
        duration=_DURATION, renewBefore=_DURATION,
        usages={"type": "array", "items": {"enum": ["digital signature", "server auth", "client auth"]}},
        issuerRef=_object(["name", "kind"], name=_TEXT, kind={"const": "Issuer"}),
        privateKey=_object(
            ["algorithm"],
            algorithm={"enum": ["ECDSA"]}, size={"enum": [256, 384, 521]}, rotationPolicy={"enum": ["Always", "Never"]},
        ),
    ),
    "ServiceMonitor": _object(
        ["selector", "endpoints"],
        selector=_object(["matchLabels"], matchLabels=_LABELS),
        endpoints={
            "type": "array", "minItems": 1,
            "items": _object(["port"], port=_TEXT, path=_TEXT, interval=_DURATION),
        },
    ),
    "PrometheusRule": _object(
        ["groups"],
        groups={"type": "array", "items": _object(["name", "rules"], name=_TEXT, rules={"type": "array", "items": _RULE})},
    ),
}
GROUPS = {"cert-manager.io/v1": ("Issuer", "Certificate"), "monitoring.coreos.com/v1": ("ServiceMonitor", "PrometheusRule")}


@functools.cache
def _errors(text):
    """Of one object, as JSON: most are in several overlays."""
    each = json.loads(text)
    if each["kind"] in GROUPS.get(each["apiVersion"], ()):
        validator = jsonschema.Draft202012Validator(CUSTOM[each["kind"]])
        return [error.message for error in validator.iter_errors(each["spec"])]
    errors = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            errors.append(f"{version}: {getattr(error, 'message', error)}")
    return errors


def schema(objects, _facts):
    """Every object fits the schemas of all supported versions."""
    for each in objects:
        for error in _errors(json.dumps(each, sort_keys=True)):
            yield f"{each['kind']} {title(each)}: {error}"
