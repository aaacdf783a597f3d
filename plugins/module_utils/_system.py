# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the library asks of the operating system: run a command, read a file, show foreign text safely.

Each of these exists once, here.  Knows nothing about Docker, the policy or the kernel module.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import typing as t

#: What a command may take that changes nothing or little. dkms compiles, and has a time of its own.
COMMAND_SECONDS = 120.0


def read_text(path: str) -> t.Optional[str]:
    """A file's text without blanks at its ends; None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return None


def write_atomically(path: str, content: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """The whole file or none of it, with this mode from its first byte on.

    `durable`: and it survives a power cut from then on (fsync of the file and of its folder).  Raises OSError; the
    former file is then as it was, and nothing else is left.
    """
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Makes what was renamed or removed in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def run(argv: t.Sequence[str], timeout: float = COMMAND_SECONDS) -> t.Tuple[int, str, str]:
    """A command's code, output and errors in the C locale.

    Code 127 where it is not there, 124 (as timeout(1)) where it did not end within `timeout` seconds and was killed.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(os.environ, LC_ALL="C", PATH=search_path()),
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode("utf-8", "replace")
        return 124, "", f"{argv[0]} did not end within {timeout:g} s\n{said}"
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def search_path() -> str:
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin:/usr/local/sbin:/usr/local/bin"


def printable(text: str) -> str:
    """One line without control characters: a name may hold what it likes, a log line may not."""
    # Nearly always; and a letter at a time is slow, where the agent does this to every line of a diff.
    if text.isprintable():
        return text
    words = " ".join(text.splitlines())
    return "".join(letter if letter.isprintable() else "?" for letter in words)


Runner = t.Callable[[t.Sequence[str]], t.Tuple[int, str, str]]
