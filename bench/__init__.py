"""The packet path in executed instructions, beside its peers: `python -m bench`."""
