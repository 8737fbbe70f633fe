"""On a terminal there is a bar with the time left; anywhere else only plain lines."""

import os
import pty
import re
import runpy
import select
import signal
import subprocess
import sys
import time

import pytest
import rich.progress  # noqa: F401  # binds the clock when it is imported, which must not be while a test replaces it

from invmm_gate.cli.show import TerminalProgress, printable
from tests.stages.world import ROOT, call, new_world, policy_with

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def test_off_a_terminal_there_are_no_control_codes_no_bars_and_no_chatter_of_libraries(tmp_path):
    world = new_world(tmp_path / "world", planted=(1,), single=())
    world.policy(policy_with(settings={"steps": 10, "test_every": 5}))
    given = world.arguments(policy=world.folder / "small.yaml")
    arguments = [str(argument) for argument in given if argument != "--no-track"]
    done = subprocess.run(
        [sys.executable, "-m", "invmm_gate", *arguments],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10, done.stderr
    said = [line for line in done.stderr.splitlines() if "% done" not in line]  # a busy machine takes minutes
    assert said == [f"loading DDPMPipeline from {world.model}"]
    assert done.stdout.startswith("BLOCK  policy small: 3 of 3 probes measured")
    assert "  logged: sqlite:///" in done.stdout
    assert not CONTROL.search(done.stdout + done.stderr)
    assert max(len(line) for line in done.stdout.splitlines()) > 80, "lines are not cut to a width that nobody has"


@pytest.mark.parametrize("command", ["check", "measure"])
def test_quiet_says_nothing_on_the_way(finished, command):
    arguments = [command, *finished.arguments()[1:], "--quiet"]
    if command == "measure":
        arguments.remove("--no-track")
    assert call(*arguments).err == ""


class Terminal:
    """A Python process on a pseudo-terminal, and all that it wrote there."""

    def __init__(self, *arguments: object) -> None:
        controller, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=ENVIRONMENT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: _take(terminal),
        )
        os.close(terminal)
        self.controller, self.text = controller, ""

    def read(self, seconds: float) -> bool:
        """Whether there may be more."""
        ready, _, _ = select.select([self.controller], [], [], seconds)
        try:
            self.text += os.read(self.controller, 65_536).decode() if ready else ""
        except OSError:  # the other end is closed
            return False
        return True

    def read_until(self, pattern: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while not re.search(pattern, self.text) and time.monotonic() < until and self.read(0.2):
            pass
        assert re.search(pattern, self.text), self.text[-2000:]

    def read_to_the_end(self) -> int:
        while self.read(30):
            pass
        return self.process.wait(timeout=30)


def _take(terminal: int) -> None:
    """Make it the controlling terminal, so that Ctrl-C reaches the process as it does a user's."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_on_a_terminal_a_bar_shows_the_time_left_and_ctrl_c_leaves_a_clean_line(tmp_path):
    world = new_world(tmp_path / "world", planted=(1,), single=())
    world.policy(policy_with(settings={"steps": 1000}))
    terminal = Terminal("-m", "invmm_gate", *world.arguments(policy=world.folder / "small.yaml"))
    try:
        terminal.read_until(r"measure[^\n]*━")
        terminal.read_until(r"measure[^\n]*\d\d:\d\d[^\n]*left")
        os.write(terminal.controller, b"\x03")
        assert terminal.read_to_the_end() == 130
    finally:
        terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait()
        os.close(terminal.controller)
    assert terminal.text.rindex(SHOW_CURSOR) > terminal.text.rindex(HIDE_CURSOR), "the cursor comes back"
    lines = plain(terminal.text).replace("\r\n", "\n").replace("\r", "\n").splitlines()
    assert lines[-1] == "interrupted: what was finished is kept; give the same command to go on"
    assert "Traceback" not in terminal.text
    assert plain(terminal.text).count("loading DDPMPipeline") == 1


VALIDATING = """
import sys
from invmm_gate.cli import run
for more in ([], ["--quiet"]):
    print("ended with", run(["probes", "validate", sys.argv[1], *more]), flush=True)
"""
"""In one process, as what it imports takes seconds."""


def test_validating_on_a_terminal_shows_how_far_it_is_unless_it_is_to_be_quiet(pristine):
    terminal = Terminal("-c", VALIDATING, pristine.probes)
    try:
        assert terminal.read_to_the_end() == 0
    finally:
        os.close(terminal.controller)
    shown, quiet, rest = plain(terminal.text).split("ended with 0")
    assert re.search(r"check images[^\n]*100%", shown)
    assert "check images" not in quiet
    assert all("5 probes, digest" in text for text in (shown, quiet))
    assert not rest.strip()


def test_validating_off_a_terminal_shows_no_progress(pristine):
    done = call("probes", "validate", pristine.probes)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("quiet", [True, False])
def test_off_a_terminal_a_long_stage_says_once_a_minute_how_far_it_is(monkeypatch, capsys, quiet):
    now = [0.0]
    monkeypatch.setattr("invmm_gate.cli.show.time.monotonic", lambda: now[0])
    with TerminalProgress(quiet=quiet) as progress:
        progress.begin("measure", total=10)
        for second in (59, 61, 119, 122):
            now[0] = float(second)
            progress.advance(2, in_flight=3 if second > 100 else 0)
        progress.end()
    left = r"about \d+ (s|min) left\n"
    lines = "" if quiet else rf"measure: 40% done, {left}measure: 80% done, 3 probes in flight, {left}"
    assert re.fullmatch(lines, capsys.readouterr().err)


def test_the_demo_says_off_a_terminal_how_far_its_two_checks_are(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "demo")
    said = runpy.run_path(str(ROOT / "examples" / "demo" / "run.py"))["sign_of_life"]
    assert said({"memorizing": 16, "clean": 8}, seconds=60.0) == (
        "60 s: memorizing 16 of 32 probes measured, clean 8 of 32 probes measured; about 180 s left to measure"
    )
    assert "left" not in said({"memorizing": 32, "clean": 32}, seconds=60.0)
    assert "left" not in said({"memorizing": 1, "clean": 0}, seconds=60.0)


def test_each_stage_has_one_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with TerminalProgress() as progress:
        for stage in ("self-check", "measure"):
            progress.begin(stage, total=10)
            progress.advance(4)
            progress.end()
        assert [task.description for task in progress._bars.tasks] == ["measure"]
        assert progress._bars.tasks[0].completed == 10


def test_control_characters_are_spelled_out_and_lines_stay():
    assert printable("a\x1b[2J\x07b\nc\x9b") == "a\\x1b[2J\\x07b\nc\\x9b"
