"""A parent that is killed goes thread by thread; its children hear of it before it is gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.process.lifeline import parent_is_gone

CHILD = """
import ctypes, os, signal, sys
from engine.process.lifeline import PR_SET_PDEATHSIG, parent_is_gone

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # one may come for each thread of the parent
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.write(1, b"begun ")
signal.sigwait({signal.SIGTERM})
os.write(1, b"gone" if parent_is_gone(int(sys.argv[1])) else b"there")
"""
PARENT = f"""
import os, subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
for _ in range(30):
    threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
time.sleep(600)
"""


def test_the_parent_of_a_living_process_is_there() -> None:
    assert not parent_is_gone(os.getppid())
    assert parent_is_gone(os.getpid())


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_a_parent_whose_threads_are_still_ending_is_gone() -> None:
    for _ in range(5):
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        assert parent.stdout.read(6) == b"begun "
        parent.kill()
        assert parent.stdout.read() == b"gone"
        parent.wait()
        parent.stdout.close()
