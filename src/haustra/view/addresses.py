"""Addresses under which the page may be opened, in settings and in `Host` and `Origin`."""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

_FORM = re.compile(r"(?:(https?)://)?(\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", re.IGNORECASE)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Address:
    """A host name or IP address, with its scheme and port if they are stated."""

    scheme: str | None
    name: str  # as browsers send it: in lower case, ASCII, without brackets
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """Return NAME, NAME:PORT or http(s)://NAME[:PORT] as an address; None for other text."""
        found = _FORM.fullmatch(text)
        if found is None or int(found[3] or 0) > 65535:
            return None
        try:
            name = plain_name(found[2])
        except ValueError:  # a malformed IPv6 address, or a name with empty parts
            return None
        port = None if found[3] is None else int(found[3])
        return cls(scheme=found[1] and found[1].lower(), name=name, port=port) if name else None

    def port_of(self, scheme: str | None) -> int | None:
        """Return the port, or else the default of the scheme."""
        return _DEFAULT_PORTS.get(scheme or "") if self.port is None else self.port

    def completed(self, own: "Address", *, is_proxied: bool) -> "Address":
        """Return a public address with a scheme: https behind a proxy, else that of the server.

        Args:
            own: The server's own address.
            is_proxied: Only a proxy reaches the server. If not, the port is the server's, unless
                the address states one.
        """
        if self.scheme is not None:
            return self
        is_remote = is_proxied and self.name not in LOOPBACK and self.port != 80
        is_https = is_remote or self.port == 443
        port = self.port if is_proxied else self.port or own.port
        return replace(self, scheme="https" if is_https else "http", port=port)

    def url(self, path: str) -> str:
        """Return the URL of a path; without a scheme it is http."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme or 'http'}://{name}{port}{path}"


def plain_name(name: str) -> str:
    """Return a host name or IP address as browsers send it, without brackets.

    Raises:
        ValueError: It is neither.
    """
    name = name.strip("[]").lower().rstrip(".")
    return ip_address(name).compressed if ":" in name else name.encode("idna").decode()
