"""The script that fills a model volume, against a hub on this machine."""

import http.server
import os
import shutil
import subprocess
import threading

import pytest

from manifests import ROOT, of_kind, render

DEMO = ROOT / "models/demo"
SCRIPT = ROOT / "k8s/components/model-hub/fetch.sh"
TOKEN = "t0ken"
pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="skipped: curl: there is none")


class Hub:
    """Serves folders as a hub does, to those who show the token."""

    def __init__(self, folder):
        hub, self.asked = self, []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=folder)

            def do_GET(self):
                hub.asked.append(self.path)
                if self.headers["Authorization"] == f"Bearer {TOKEN}":
                    super().do_GET()
                else:
                    self.send_error(401)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path):
    revision = tmp_path / "hub/owner/demo/resolve/main"
    shutil.copytree(DEMO, revision)
    (revision / "model.safetensors").rename(revision / "model-00001-of-00002.safetensors")
    (revision / "exit_heads.safetensors").rename(revision / "model-00002-of-00002.safetensors")
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",\n'
    (revision / "model.safetensors.index.json").write_text(index + '"c": "model-00001-of-00002.safetensors"}}')
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.close()


def fetch(hub, folder, files, token=TOKEN):
    configs = of_kind(render(ROOT / "k8s/overlays/gpu"), "ConfigMap")
    [settings] = [each["data"] for each in configs if "MODEL_FILES" in each["data"]]
    settings |= {
        "DSSD_MODEL": str(folder), "MODEL_HUB": hub.url, "MODEL_REPOSITORY": "owner/demo", "MODEL_FILES": files,
        "MODEL_TOKEN": token,
    }
    return subprocess.run(["sh", SCRIPT], env={"PATH": os.environ["PATH"]} | settings, check=False).returncode


def test_files_and_shards_come_whole_and_once(hub, tmp_path):
    folder, files = tmp_path / "models/demo", "config.json model.safetensors.index.json"
    assert fetch(hub, folder, files) == 0
    came = {each.name for each in folder.iterdir()}
    shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert came == {"config.json", "model.safetensors.index.json"} | shards
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == (DEMO / "model.safetensors").read_bytes()
    asked = len(hub.asked)
    assert fetch(hub, folder, files) == 0 and len(hub.asked) == asked, "loaded again"


@pytest.mark.parametrize("files, token", [("config.json none.json", TOKEN), ("config.json", "wrong"), ("config.json", "")])
def test_what_cannot_be_had_fails(hub, tmp_path, files, token):
    folder = tmp_path / "models/demo"
    assert fetch(hub, folder, files, token) != 0
    assert {each.name for each in folder.iterdir()} <= {"config.json"}
