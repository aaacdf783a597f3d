# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports what we use of pyroute2, and not the rest of it.

`import pyroute2` runs its __init__, which imports every part of it: databases,
consoles, test tools.  That is most of the time that a command of ours takes.
A bare package in its place lets the parts be imported one by one.  Never
replaces a pyroute2 that is imported already.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import importlib.util
import sys
import types


def pyroute2_parts() -> None:
    """Call it before the first `from pyroute2.part import name`. Does nothing where there is no pyroute2."""
    if "pyroute2" in sys.modules:
        return
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or not spec.submodule_search_locations:
        return
    bare = types.ModuleType("pyroute2")
    bare.__path__ = list(spec.submodule_search_locations)
    bare.__spec__ = spec
    bare.__file__ = spec.origin
    sys.modules["pyroute2"] = bare
