# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a host: the desired policy, the last good one, what was applied.

Each file is a sealed envelope: a schema number, the SHA-256 of its body, the
body.  It is written whole or not at all (temporary file, fsync, rename, fsync
of the folder) and a file that does not add up is refused, never guessed at.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Locked,
    PermissionDenied,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import sync_folder, write_atomically
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

POLICY_SCHEMA = 1

ETC = "/etc/bridgewarden"
VAR = "/var/lib/bridgewarden"
#: In a folder for root alone, which tmpfiles.d and the units make at boot: whoever holds a lock stops every change.
LOCK_PATH = "/run/bridgewarden/lock"
#: Where the locks were before, in a folder that everybody may write to. A writer of that time may still run during an upgrade.
FORMER_LOCK_PATH = "/run/lock/bridgewarden.lock"


def canonical(value: t.Any) -> str:
    """The one text a JSON value has: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Store:
    """`read_*` returns None where the file is absent and raises StoreCorrupt where it is damaged."""

    def __init__(
        self, etc: str = ETC, var: str = VAR, lock: str = LOCK_PATH, former_lock: str = FORMER_LOCK_PATH
    ) -> None:
        self.policy_path = os.path.join(etc, "policy.json")
        self.pending_path = os.path.join(var, "pending.json")
        self.last_good_path = os.path.join(var, "last-good.json")
        self.applied_path = os.path.join(var, "applied.json")
        self.lock_path = lock
        self.agent_lock_path = lock + ".agent"
        self.former_lock_path = former_lock

    # The desired policy in normal form, as `_policy.normalise()` accepts it.

    def read_policy(self) -> t.Optional[Json]:
        return self._read(self.policy_path)

    def write_policy(self, policy: Json) -> bool:
        """True where the file changed."""
        return self._write(self.policy_path, policy)

    # A policy whose commit waits for its confirmation: it becomes the desired
    # one when that comes, so a roll back by the kernel leaves nothing to undo.

    def read_pending(self) -> t.Optional[Json]:
        return self._read(self.pending_path)

    def write_pending(self, policy: Json) -> bool:
        return self._write(self.pending_path, policy)

    def drop_pending(self) -> bool:
        return self._remove(self.pending_path)

    # The last policy that was committed and kept: what boot falls back on.

    def read_last_good(self) -> t.Optional[Json]:
        return self._read(self.last_good_path)

    def write_last_good(self, policy: Json) -> bool:
        return self._write(self.last_good_path, policy)

    # What the last commit of ours put into the kernel, in words, for diffs:
    # {"generation", "policy_digest", "ruleset_digest", "mode", "effective": [...], "words": [...], "time"}

    def read_applied(self) -> t.Optional[Json]:
        return self._read(self.applied_path)

    def write_applied(self, applied: Json) -> bool:
        return self._write(self.applied_path, applied)

    # For readers that have something to fall back on.

    def read_policy_or_none(self) -> t.Optional[Json]:
        with contextlib.suppress(StoreCorrupt):
            return self.read_policy()
        return None

    def read_pending_or_none(self) -> t.Optional[Json]:
        with contextlib.suppress(StoreCorrupt):
            return self.read_pending()
        return None

    def read_last_good_or_none(self) -> t.Optional[Json]:
        with contextlib.suppress(StoreCorrupt):
            return self.read_last_good()
        return None

    def read_applied_or_none(self) -> t.Optional[Json]:
        with contextlib.suppress(StoreCorrupt):
            return self.read_applied()
        return None

    def present(self) -> t.List[str]:
        """The paths of the files that are there."""
        paths = (self.policy_path, self.pending_path, self.last_good_path, self.applied_path)
        return [path for path in paths if os.path.lexists(path)]

    def remove(self) -> t.List[str]:
        """Removes all files; returns those that were there.

        Their folders stay: the agent's unit has them mounted writable, and one made anew would be read-only to it.
        """
        return [path for path in self.present() if self._remove(path)]

    def lock(self, timeout: float = 10.0) -> t.ContextManager[None]:
        """Held around read, commit and write, so that two writers do not race. Not re-entrant."""
        return self._locked(self.lock_path, self.former_lock_path, timeout, "bridgewarden writer")

    def agent_lock(self, timeout: float) -> t.ContextManager[None]:
        """Held by the one agent of a host for as long as it runs."""
        return self._locked(self.agent_lock_path, self.former_lock_path + ".agent", timeout, "agent")

    @contextlib.contextmanager
    def _locked(self, path: str, former: str, timeout: float, who: str) -> t.Iterator[None]:
        deadline = time.monotonic() + timeout
        with contextlib.ExitStack() as held:
            try:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise self._denied(path, error)
            held.callback(os.close, handle)
            self._wait_for(handle, path, deadline, who)
            of_before = self._open_former(former)
            if of_before is not None:
                held.callback(os.close, of_before)
                self._wait_for(of_before, former, deadline, who)
            os.ftruncate(handle, 0)
            os.pwrite(handle, b"%d\n" % os.getpid(), 0)
            yield

    @staticmethod
    def _open_former(path: str) -> t.Optional[int]:
        """The lock file of before, where there is one that only root can have made and can hold."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o077:
            return handle
        os.close(handle)
        return None

    def _wait_for(self, handle: int, path: str, deadline: float, who: str) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise self._denied(path, error)
            left = deadline - time.monotonic()
            if left <= 0:
                raise Locked(
                    "another %s (%s) holds the lock" % (who, self._holder(handle)),
                    path,
                    "wait for it to end, or look at what it is doing",
                )
            time.sleep(min(0.05, left))

    @staticmethod
    def _holder(handle: int) -> str:
        pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        return f"process {pid}" if pid else "unknown process"

    @staticmethod
    def _denied(path: str, error: OSError) -> Exception:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return PermissionDenied(f"cannot write: {error.strerror}", path, "run as root (become: true)")
        return StoreCorrupt(f"cannot be used: {error.strerror}", path, "repair the file system and run again")

    def _read(self, path: str) -> t.Optional[Json]:
        try:
            with open(path, "rb") as handle:
                text = handle.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionDenied("cannot read the file", path, "run as root (become: true)")
            raise StoreCorrupt(f"cannot be read: {error.strerror}", path, "apply the policy again")
        hint = "apply the policy again with bridgewarden.docker.policy; the file is left as it is"
        try:
            envelope = json.loads(text.decode("utf-8"))
        except ValueError as error:
            raise StoreCorrupt(f"the file is not JSON: {error}", path, hint)
        if not isinstance(envelope, dict) or not isinstance(envelope.get("body"), dict):
            raise StoreCorrupt("the file is not one of bridgewarden's", path, hint)
        if envelope.get("schema") != POLICY_SCHEMA:
            raise StoreCorrupt(
                "the file has schema %r, this version reads %d" % (envelope.get("schema"), POLICY_SCHEMA),
                path,
                hint,
            )
        if envelope.get("sha256") != self._sum(envelope["body"]):
            raise StoreCorrupt("the file's checksum does not match its content", path, hint)
        body: Json = envelope["body"]
        return body

    @staticmethod
    def _sum(body: Json) -> str:
        return hashlib.sha256(canonical(body).encode("utf-8")).hexdigest()

    def _write(self, path: str, body: Json) -> bool:
        envelope = {"schema": POLICY_SCHEMA, "sha256": self._sum(body), "body": body}
        text = (json.dumps(envelope, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
        try:
            with open(path, "rb") as handle:
                if handle.read() == text:
                    return False
        except OSError:
            pass  # absent or unreadable: it is about to be written
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            raise self._denied(path, error)
        return True

    def _remove(self, path: str) -> bool:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._denied(path, error)
        sync_folder(os.path.dirname(path))
        return True
