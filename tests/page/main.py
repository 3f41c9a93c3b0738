"""Runs the checks of the page beside a pair of services.

Arguments: the folder of the binaries, Chromium, and a folder for screenshots.
"""

import os
import pathlib
import subprocess
import sys

from services import running_pair

HERE = pathlib.Path(__file__).resolve().parent
NODE_SECONDS = 240
# Always a draft, so that there is something to see.
FLAGS = ["--page", "on", "--policy", "fixed:0:4"]


def main():
    binaries, chromium, screenshots = sys.argv[1:]
    with running_pair(pathlib.Path(binaries), *FLAGS) as pair:
        url = f"http://{pair.verify_http}/"
        node = subprocess.run(
            ["node", HERE / "check.js", url, pair.draft, chromium, screenshots],
            timeout=NODE_SECONDS, env=os.environ, capture_output=True, text=True,
        )
        print(node.stdout, end="")
        assert node.returncode == 0, f"the page is not as it should be\n{node.stderr}"
    passed = sum(line.startswith("ok: ") for line in node.stdout.splitlines())
    assert passed > 0, "nothing was checked"
    print(f"page: {passed} checks passed; screenshots are in {screenshots}")


if __name__ == "__main__":
    main()
