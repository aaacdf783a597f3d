# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command `bridgewarden` on a host: looks at the kernel, and steers it.

Each command makes one record; --json prints it as it is, without it people get
a table made of the same record.  Decides nothing about policy: what it changes
goes through _commit, as for the modules.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    say,
    say_json,
    warn,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.parser import make_parser
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError


def command(name: str) -> t.Callable[[argparse.Namespace], Reply]:
    """A command's function. A zipapp is compiled at each start, so only its own file is imported."""
    file, function = name.split(".")
    found: t.Callable[[argparse.Namespace], Reply] = getattr(
        importlib.import_module(__name__.rpartition(".")[0] + "." + file), function
    )
    return found


def main(argv: t.Optional[t.Sequence[str]] = None) -> t.NoReturn:
    args = make_parser().parse_args(argv)
    try:
        reply = command(args.run)(args)
    except BridgewardenError as error:
        if args.json:
            say_json({"error": error.text(), **error.as_result()}, indent=2)
        else:
            warn(error.text())
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        os._exit(0)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if reply.said:
        pass
    elif args.json:
        say_json(reply.record, indent=2)
    else:
        say(*reply.lines)
    raise SystemExit(reply.code)
