"""The overlay cpu-demo, as its manifests say, in local processes."""

import contextlib
import re
import subprocess
import urllib.parse

import grpc
import pytest
import yaml

from binaries import FOLDER, facts
from deployed import Pod, link_variables, wait_for
from manifests import ROOT, at, named, of_kind, quantity, render, title
from reflected import Reflected

OBJECTS = render(ROOT / "k8s/overlays/cpu-demo")
TOKENS = 900
# Names that Kubernetes makes of a Service's name.
LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?$")


@contextlib.contextmanager
def running(objects):
    """Both pods, ready."""
    started = []
    try:
        draft = Pod(objects, "dssd-draft")
        started.append(draft)
        verify = Pod(objects, "dssd-verify", peers={"dssd-draft": draft})
        started.append(verify)
        for pod in started:
            pod.start_up()
        yield draft, verify
    finally:
        for pod in started:
            pod.close()


@pytest.fixture
def pair():
    with running(OBJECTS) as pods:
        yield pods


def dssd(*arguments):
    return subprocess.run([FOLDER / "dssd", *arguments], capture_output=True, text=True, timeout=300, check=False)


class Generation:
    """A long one, of which the first tokens have come."""

    def __init__(self, client):
        request = client.message(
            "dssd.v1.GenerateRequest", text="Once upon a time", max_new_tokens=TOKENS, ignore_eos=True,
            temperature=1.0, seed=5, speculation={"policy": "fixed:1:3"},
        )
        self._messages = iter(client.call("dssd.v1.Generation", "GenerateStream", request))
        self._tokens = []
        while not self._tokens:
            self._take(next(self._messages))

    def _take(self, message):
        if message.WhichOneof("event") == "tokens":
            self._tokens += message.tokens.token_ids

    def whole(self):
        """All its tokens, once it has ended by itself."""
        for message in self._messages:
            self._take(message)
        assert message.WhichOneof("event") == "finish_info"
        assert len(self._tokens) == TOKENS
        return self._tokens


def wait_for_drafts(verify):
    """The drafter is looked for from the start on, and ready after a while."""
    def drafted():
        with Reflected(verify.address("grpc")) as client:
            Generation(client).whole()
        return verify.metric("dssd_spec_decode_num_drafts_total") > 0

    wait_for(drafted, 60, "a draft")


def test_pods_are_ready_and_generate(pair):
    for pod in pair:
        assert pod.probe("readinessProbe") and pod.probe("livenessProbe")
    wait_for_drafts(pair[1])
    for pod in pair:
        assert pod.peak_bytes() < quantity(pod.container["resources"]["limits"]["memory"])


def test_the_check_passes(pair):
    job = yaml.safe_load((ROOT / "k8s/check.yaml").read_text())
    arguments = at(job, "spec", "template", "spec", "containers", 0, "args")
    url = urllib.parse.urlsplit(arguments[-1])
    service = named(OBJECTS, "Service", url.hostname)
    assert url.port in [port["port"] for port in service["spec"]["ports"]]
    checked = dssd(*arguments[:-1], f"http://{pair[1].address('grpc')}", "--quick", "--max-new-tokens", "16")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_drafter_that_ends_costs_no_token(pair):
    draft, verify = pair
    wait_for_drafts(verify)
    with Reflected(verify.address("grpc")) as client:
        undisturbed = Generation(client).whole()
        grace = draft.pause()
        assert draft.probe("readinessProbe"), "not served while it is still known"
        generation = Generation(client)
        draft.terminate()
        assert generation.whole() == undisturbed
    assert draft.wait(grace) == 0


def test_a_verifier_ends_what_runs(pair):
    verify = pair[1]
    with Reflected(verify.address("grpc")) as client:
        undisturbed = Generation(client).whole()
        grace = verify.pause()
        assert verify.probe("readinessProbe"), "not served while it is still known"
        generation = Generation(client)
        verify.terminate()
        assert generation.whole() == undisturbed
    assert verify.wait(grace) == 0


def test_a_drain_that_is_too_short_is_noticed():
    objects = render(ROOT / "k8s/overlays/cpu-demo")
    [config] = [each for each in of_kind(objects, "ConfigMap") if title(each).startswith("verify-settings")]
    config["data"] |= {"DSSD_DRAIN_DELAY": "0", "DSSD_DRAIN_TIMEOUT": "0"}
    with running(objects) as (_, verify), Reflected(verify.address("grpc")) as client:
        generation = Generation(client)
        verify.terminate()
        with pytest.raises(grpc.RpcError):
            generation.whole()


def test_probes_and_settings_that_cannot_work_are_noticed():
    objects = render(ROOT / "k8s/overlays/cpu-demo")
    [config] = [each for each in of_kind(objects, "ConfigMap") if title(each).startswith("draft-settings")]
    with contextlib.closing(Pod(objects, "dssd-draft")) as draft:
        draft.start_up()
        draft.container["readinessProbe"] = {"httpGet": {"path": "/ready", "port": "http"}}
        assert not draft.probe("readinessProbe")
    config["data"]["DSSD_WORK_AHEAD"] = "no"
    with pytest.raises(AssertionError, match="ended before it listened"):
        Pod(objects, "dssd-draft")


def test_service_links_would_set_nothing():
    """Whatever Services are called, the variables made for them are none of the settings."""
    known = {name for each in facts().values() for name in each.variables}
    assert known and not [name for name in known if LINK.search(name)]
    links = link_variables(OBJECTS)
    assert "DSSD_VERIFY_PORT" in links and all(LINK.search(name) for name in links)
