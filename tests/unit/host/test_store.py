# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's files: whole or not at all, refused when they do not add up, one writer at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Locked, StoreCorrupt
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import store as _store
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

POLICY = {"mode": "enforce", "rules": [{"name": "ä"}]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "etc"), str(tmp_path / "var"), str(tmp_path / "run/lock"))


def test_round_trip(store: Store) -> None:
    assert store.read_policy() is None
    assert store.write_policy(POLICY)
    assert store.read_policy() == POLICY
    assert not store.write_policy(dict(POLICY))
    assert stat.S_IMODE(os.stat(store.policy_path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(store.policy_path)) == ["policy.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON"),
        ("[]", "not one of bridgewarden's"),
        ('{"schema": 1}', "not one of bridgewarden's"),
        ('{"schema": 2, "body": {}, "sha256": ""}', "schema 2, this version reads 1"),
        ('{"schema": 1, "body": {}, "sha256": "00"}', "checksum"),
        ("\xff\xfe", "not JSON"),
    ],
)
def test_damage_is_refused_and_left_alone(store: Store, content: str, words: str) -> None:
    store.write_policy(POLICY)
    Path(store.policy_path).write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreCorrupt, match=words) as caught:
        store.read_policy()
    assert store.policy_path in str(caught.value)
    assert store.read_policy_or_none() is None
    assert Path(store.policy_path).read_bytes() == content.encode("latin-1")
    store.write_policy(POLICY)
    assert store.read_policy() == POLICY


def test_one_flipped_letter(store: Store) -> None:
    store.write_policy(POLICY)
    text = Path(store.policy_path).read_text(encoding="utf-8")
    Path(store.policy_path).write_text(text.replace("enforce", "enforcf"), encoding="utf-8")
    with pytest.raises(StoreCorrupt, match="checksum"):
        store.read_policy()


def test_a_write_that_fails_leaves_the_old_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_policy(POLICY)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_store.os, "fsync", full)
    with pytest.raises(StoreCorrupt, match="No space left"):
        store.write_policy({"mode": "audit"})
    assert store.read_policy() == POLICY
    assert os.listdir(os.path.dirname(store.policy_path)) == ["policy.json"]


def test_two_writers(store: Store, checkout: Path) -> None:
    other = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
        with Store(lock=sys.argv[2]).lock():
            print("held", flush=True)
            sys.stdin.read()
        """
    )
    command = [sys.executable, "-c", other, str(checkout / ".collections"), store.lock_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"process {process.pid}"), store.lock(timeout=0.2):
            pass
        process.communicate("")
    with store.lock(timeout=0.2):
        assert Path(store.lock_path).read_text(encoding="ascii").strip() == str(os.getpid())


HOLDER = """
import fcntl, os, sys
path = sys.argv[1]
try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
    print(type(error).__name__, flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path: str, **who: t.Any) -> t.Iterator[str]:
    """A process that takes the lock if it can; yields "held", or the error's name."""
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **who
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("")


@pytest.fixture
def run() -> t.Iterator[Path]:
    """A folder like /, with run/ for root alone and run/lock/ for everybody, as on Debian."""
    root = Path(tempfile.mkdtemp(prefix="bw-run."))
    (root / "run/lock").mkdir(parents=True)
    root.chmod(0o755)
    (root / "run").chmod(0o755)
    (root / "run/lock").chmod(0o1777)
    yield root
    shutil.rmtree(root)


NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.mark.root
@pytest.mark.parametrize("first", [True, False], ids=["before the first run", "afterwards"])
@pytest.mark.parametrize("agent", [False, True], ids=["writer", "agent"])
def test_an_unprivileged_user_cannot_hold_the_locks(run: Path, first: bool, agent: bool) -> None:
    """Whoever holds one stops every change, and the agent: new containers would stay closed."""
    store = Store("", "", f"{run}{_store.LOCK_PATH}", f"{run}{_store.FORMER_LOCK_PATH}")
    path = store.agent_lock_path if agent else store.lock_path

    def lock() -> t.ContextManager[None]:
        return store.agent_lock(0.2) if agent else store.lock(0.2)

    with holder(f"{run}/run/lock/any", **NOBODY) as word:
        assert word == "held"  # the probe itself works
    if not first:
        with lock():
            pass
    with holder(path, **NOBODY) as word:
        assert word == "PermissionError"
        with lock():
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    # And the place of before, where anybody can be first, does not count unless the file is root's own.
    former = f"{run}{_store.FORMER_LOCK_PATH}{'.agent' if agent else ''}"
    with holder(former, **NOBODY) as word:
        assert word == "held"
        with lock():
            pass


@pytest.mark.root
def test_a_writer_of_before_the_locks_moved_is_waited_for(run: Path) -> None:
    """As during an upgrade: the agent that runs still uses the former place."""
    store = Store("", "", f"{run}{_store.LOCK_PATH}", f"{run}{_store.FORMER_LOCK_PATH}")
    with store.lock(0.2), store.agent_lock(0.2):
        assert os.listdir(run / "run/lock") == []  # nothing is made there
    for path, lock in (
        (f"{run}{_store.FORMER_LOCK_PATH}", lambda: store.lock(0.2)),
        (f"{run}{_store.FORMER_LOCK_PATH}.agent", lambda: store.agent_lock(0.2)),
    ):
        with holder(path) as word:
            assert word == "held"
            with pytest.raises(Locked) as caught, lock():
                pass
            assert caught.value.location == path
        with lock(), holder(path) as word:
            assert word == "BlockingIOError"  # and that one waits for us
        with holder(path) as word:
            assert word == "held"


def test_remove(store: Store) -> None:
    store.write_policy(POLICY)
    store.write_applied({"words": []})
    assert store.remove() == [store.policy_path, store.applied_path]
    assert store.remove() == store.present() == []
    # The units have the folders mounted writable: removed and made anew they would be read-only to a running agent.
    assert os.listdir(os.path.dirname(store.policy_path)) == []


def test_the_file_is_readable_json(store: Store) -> None:
    store.write_policy(POLICY)
    envelope = json.loads(Path(store.policy_path).read_text(encoding="utf-8"))
    assert set(envelope) == {"schema", "sha256", "body"}
