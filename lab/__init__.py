"""Real target hosts for bridgewarden: Debian Docker hosts as QEMU machines on the developer's computer."""
