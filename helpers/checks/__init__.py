"""Check this machine, its network and an export."""
