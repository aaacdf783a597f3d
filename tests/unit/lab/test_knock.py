"""The prober of the boots: each kind of answer from real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time

from lab.paths import CHECKOUT


def greet(listener: socket.socket, greeted: threading.Semaphore) -> None:
    while True:
        client, _ = listener.accept()
        client.sendall(b"hello\n")
        client.close()
        greeted.release()


def test_every_kind_of_answer() -> None:
    greeter = socket.socket()
    greeter.bind(("127.0.0.1", 0))
    mute = socket.socket()
    mute.bind(("127.0.0.1", 0))
    mute.listen(100)
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    knocker = subprocess.Popen(
        [sys.executable, "-m", "lab.knock"],
        cwd=CHECKOUT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert knocker.stdin
    targets = {
        "greeter": ("127.0.0.1", greeter.getsockname()[1], 1),
        "mute": ("127.0.0.1", mute.getsockname()[1], 2),
        "closed": ("127.0.0.1", closed.getsockname()[1], 1),
    }
    knocker.stdin.write(json.dumps({"tick": 0.05, "patience": 0.4, "targets": targets}) + "\n")
    knocker.stdin.flush()
    mute.accept()  # so the first tick is over
    time.sleep(0.3)
    greeter.listen(100)
    greeted = threading.Semaphore(0)
    threading.Thread(target=greet, args=(greeter, greeted), daemon=True).start()
    for _ in range(20):
        assert greeted.acquire(timeout=30), "the knocking ended"
    found = json.loads(knocker.communicate(timeout=10)[0])
    for name, target in found.items():
        words = ("open", "connected", "refused", "unreachable", "silent")
        assert sum(target[word] for word in words) == target["attempts"], name
    assert found["greeter"]["refused"] and found["greeter"]["open"]
    assert 0.2 < found["greeter"]["first_open"] < found["greeter"]["last_open"]
    assert found["mute"]["connected"] == found["mute"]["attempts"]
    assert found["closed"]["refused"] == found["closed"]["attempts"]
    assert found["mute"]["attempts"] <= found["closed"]["attempts"] // 2 + 1
    mute.close()
    closed.close()
