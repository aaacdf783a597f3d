# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command `bridgewarden` on a host: looks at the kernel, and steers it.

Each command makes one record; --json prints it as it is, without it people get
a table made of the same record.  Decides nothing about policy: what it changes
goes through the engine, as for the modules.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply, say, warn
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.parser import make_parser
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError


def main(argv: t.Optional[t.Sequence[str]] = None) -> t.NoReturn:
    args = make_parser().parse_args(argv)
    try:
        reply: Reply = args.run(args)
    except BridgewardenError as error:
        if args.json:
            say(json.dumps({"error": error.text(), **error.as_result()}, indent=2, sort_keys=True))
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
        say(json.dumps(reply.record, indent=2, sort_keys=True))
    elif reply.lines:
        say("\n".join(reply.lines))
    raise SystemExit(reply.code)
