"""Runs the blocks of one file as one terminal session, in which services may stay in the background."""

import contextlib
import os
import signal
import subprocess
import time

from blocks import Fault

# Background jobs are asked to end with the file, and may drain for so long.
END_SECONDS = 45
POLL_SECONDS = 0.05
SHOWN_BYTES = 6000

# What the shell tells of itself goes to `events`. A background job that ended with an error, before or after
# it was asked to end, is a failure; 143 is what SIGTERM makes of a program that does not handle it.
PROLOGUE = r"""set -eE -o pipefail
trap '__failed=$?; echo "failed $LINENO $__failed" >>"$__events"' ERR
__jobs=' '
__note() { [[ $__jobs == *" $! "* ]] || __jobs+="$! "; }
__begin() { echo "begin $1" >>"$__events"; }
__end() { __note; echo "end $1" >>"$__events"; }
__close() {
  trap - ERR DEBUG
  local job status
  for job in $__jobs; do
    kill -TERM "$job" 2>/dev/null || :
    status=0
    wait "$job" || status=$?
    case $status in 0|127|143) ;; *) echo "job $status" >>"$__events" ;; esac
  done
}
"""


def script(blocks):
    """A shell script that has each command on the line where the document has it."""
    lines = {}
    for block in blocks:
        begin, end = f"__begin {block.line}", f"__end {block.line}"
        after = block.line + len(block.text) + 1
        for number, text in enumerate(block.text, block.line + 1):
            if block.language == "console":
                text = text[2:] if text.startswith("$ ") else ""
            lines[number] = text
        if block.language == "python":
            lines[block.line] = f"{begin}; python3 - <<'__PROGRAM'; {end}"
            lines[after] = "__PROGRAM"
        else:
            # Before each command, the job that the one before it may have left is noted.
            lines[block.line], lines[after] = f"{begin}; trap __note DEBUG", f"trap - DEBUG; {end}"
    return "".join(lines.get(number, "") + "\n" for number in range(1, max(lines) + 1))


class Session:
    """The shell of one file. `folder` is for its own files; commands run in `folder/work`."""

    def __init__(self, file, blocks, folder, environment, seconds):
        self._file, self._seconds = file, seconds
        self._left = len(blocks)
        self._place = f"{file}:{blocks[0].line}"
        self._log = folder / "log"
        self._events = folder / "events"
        self._events.touch()
        (folder / "prologue").write_text(PROLOGUE)
        (folder / "commands").write_text(script(blocks))
        # Sourced, so that the first line of the commands is the first line of the document.
        run = 'source "$0/prologue"; source "$0/commands"; __close'
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'__events="$0/events"; {run}', str(folder)],
                cwd=folder / "work", env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )

    def run(self):
        """Runs all blocks and ends what they left in the background."""
        try:
            self._follow()
            if self._process.returncode != 0 or self._left > 0:
                status = self._process.returncode
                raise Fault(f"{self._place}: the shell ended with status {status}")
        except Fault as fault:
            raise Fault(f"{fault}\n{self._output()}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _follow(self):
        """Takes every event until the shell ends; a fault if a block, or the end, takes too long."""
        with open(self._events) as events:
            deadline = time.monotonic() + self._seconds
            while True:
                ended = self._process.poll() is not None
                for event in events.readlines():
                    self._take(*event.split())
                    seconds = self._seconds if self._left else END_SECONDS
                    deadline = time.monotonic() + seconds
                if ended:
                    return
                if time.monotonic() > deadline:
                    what = "a command" if self._left else "a background job"
                    raise Fault(f"{self._place}: {what} still runs, and its time is over")
                time.sleep(POLL_SECONDS)

    def _take(self, event, number, status=None):
        if event == "begin":
            self._place = f"{self._file}:{number}"
        elif event == "end":
            self._left -= 1
        elif event == "failed":
            raise Fault(f"{self._file}:{number}: ended with status {status}")
        else:
            raise Fault(f"{self._file}: a background job ended with status {number}")

    def _output(self):
        text = self._log.read_bytes()[-SHOWN_BYTES:]
        return text.decode(errors="replace")
