"""The Containerfile builds what manifests name; and each fault in it is noticed."""

import pytest

from containerfile import faults
from manifests import ROOT

CONTAINERFILE = (ROOT / "images/Containerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text()


def test_images_are_sound():
    assert not faults(CONTAINERFILE, IGNORE)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("rust:1.95.0-", "rust:1.90.0-"),
        (" --locked", ""),
        ("debian:bookworm-slim", "debian:latest"),
        ("debian:bookworm-slim", "debian"),
        ("docker.io/library/debian", "debian"),
        ("FROM cpu AS verify-svc-cpu", "FROM base AS verify-svc-cpu"),
        ("FROM cuda AS draft-svc-cuda", "FROM cpu AS draft-svc-cuda"),
        ("AS dssd-cuda", "AS cli-cuda"),
        ("--from=nvrtc", "--from=cuda-toolkit"),
        ("COPY models/demo", "COPY models/none"),
        ("USER 65532:65532", "USER nobody"),
        ("USER 65532:65532", "USER 0:0"),
        ("USER 65532:65532\n", ""),
        ("--package dssd", "--package dssd-proto"),
        ('ENTRYPOINT ["verify-svc"]', 'ENTRYPOINT ["draft-svc"]'),
        ("release/verify-svc /usr", "release/draft-svc /usr"),
    ],
)
def test_faults_of_the_containerfile_are_noticed(right, wrong):
    assert right in CONTAINERFILE
    assert faults(CONTAINERFILE.replace(right, wrong), IGNORE)


@pytest.mark.parametrize("right, wrong", [("*\n!", "!"), ("!tests\n", ""), ("**/node_modules\n", ""), ("!models\n", "")])
def test_faults_of_dockerignore_are_noticed(right, wrong):
    assert right in IGNORE
    assert faults(CONTAINERFILE, IGNORE.replace(right, wrong))
