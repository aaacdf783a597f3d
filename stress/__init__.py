"""`make stress`: the module under a debug kernel."""
