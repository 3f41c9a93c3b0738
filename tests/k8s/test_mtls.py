"""The overlay mtls, as its manifests say, in local processes with certificates as cert-manager would issue them."""

import subprocess

import pytest

from binaries import FOLDER
from deployed import Pod, wait_for
from issued import make_secrets
from manifests import ROOT, render

OBJECTS = render(ROOT / "k8s/overlays/mtls")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    return make_secrets(OBJECTS, tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def verify(secrets):
    started = []
    try:
        draft = Pod(OBJECTS, "dssd-draft", secrets=secrets)
        started.append(draft)
        started.append(Pod(OBJECTS, "dssd-verify", {"dssd-draft": draft}, secrets))
        for pod in started:
            pod.start_up()
        yield started[1]
    finally:
        for pod in started:
            pod.close()


def generate(verify, secrets, certificate="dssd-verify-client", tokens="dssd-client-tokens"):
    folder = secrets[certificate]
    return subprocess.run(
        [
            FOLDER / "dssd", "generate", "--endpoint", f"https://{verify.address('grpc')}",
            "--tls-ca", secrets["dssd-verify-client"] / "ca.crt",
            "--tls-cert", folder / "tls.crt", "--tls-key", folder / "tls.key",
            "--token-file", secrets[tokens] / "tokens",
            "--policy", "fixed:1:3", "--max-new-tokens", "24", "--deadline", "10", "Once upon a time",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )


def test_clients_with_certificate_and_token_get_drafted_answers(verify, secrets):
    def drafted():
        answer = generate(verify, secrets)
        assert answer.returncode == 0 and answer.stdout.strip(), answer.stderr
        return verify.metric("dssd_spec_decode_num_drafts_total") > 0

    # The drafter is looked for from the start on, and ready after a while.
    wait_for(drafted, 60, "a draft over TLS")


def test_others_do_not(verify, secrets):
    assert generate(verify, secrets, certificate="dssd-draft-client").returncode != 0
    assert generate(verify, secrets, tokens="dssd-draft-token").returncode != 0
