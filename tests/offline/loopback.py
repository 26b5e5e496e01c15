"""Which addresses are this machine itself."""

import ipaddress


def is_local(host: object) -> bool:
    """Whether `host`, a name or an address in any form that socket takes, is this machine itself."""
    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii", errors="replace")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified
