"""Reads URLs of clips strictly, and shows them without what may be secret in them.

    https://host/a%20clip.mp4?sig=...  ->  `ClipUrl`: host, port, what is asked for; shown as `https://host/a%20clip.mp4?...`

Refuses what two readers may understand differently (odd spellings of addresses, backslashes, control characters), user names and
passwords, and fragments, which may mean a part of a clip and would have no effect. Asks no network and imports no client of one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote as percent_encode
from urllib.parse import unquote, urljoin, urlsplit

from cvft.errors import ValueProblem, quote

PORTS = {"http": 80, "https": 443}
"""Schemes that are fetched, with their ports."""

MAX_URL_CHARS = 8000
"""Longest URL. Source: RFC 9110 4.1 asks recipients to take at least 8000."""

MAX_NAME_CHARS = 100

NEED = "a URL of a clip, such as `https://host/clip.mp4`"

_WEB = re.compile(r"https?://", re.IGNORECASE)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_USER = re.compile(r"(?<=//)[^/?#]*@")
_PASSWORD = re.compile(r"//[^@/?#\[\]]*:(?![0-9]*(?:[/?#]|$))[^@/?#]*[/?#].*@", re.DOTALL)
_SECRET = re.compile(r"[?#].*", re.DOTALL)
_ODD = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
_PATH_SAFE = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True)
class ClipUrl:
    """A URL that may be asked for.

    Args:
        scheme: `http` or `https`.
        host: Name in ASCII and lower case, or an address without brackets.
        port: Port.
        target: Path and query, as they are sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port, as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def text(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def shown(self) -> str:
        """The URL for messages and records."""
        return show_url(self.text)

    @property
    def digest(self) -> str:
        """What tells the URL from others: 64 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """A name for the clip that any disk takes, like the last one of the path."""
        last = unquote(self.target.partition("?")[0].rpartition("/")[2])
        return re.sub(r"[^A-Za-z0-9._-]+", "_", last).lstrip(".")[-MAX_NAME_CHARS:] or "clip"

    def at(self, address: str) -> str:
        """Returns the URL with an address in place of its host."""
        return f"{self.scheme}://{f'[{address}]' if ':' in address else address}:{self.port}{self.target}"

    def follow(self, location: str) -> ClipUrl:
        """Returns where a redirect leads.

        Args:
            location: The header `Location`.

        Raises:
            ValueProblem: when that is no URL to be asked for.
        """
        # a fragment is for who shows a page
        target = parse_url(urljoin(self.text, location).partition("#")[0])
        if self.scheme == "https" and target.scheme == "http":
            raise ValueProblem(f"a redirect to {quote(target.shown)}, which is not encrypted", "https to the end")
        return target


def is_url(text: str) -> bool:
    """Says whether a text means a clip on the web."""
    return _WEB.match(text) is not None


def show_url(text: str) -> str:
    """Returns a URL without user, password, query and fragment: they may hold keys, and messages go to logs."""
    text = text[:MAX_URL_CHARS]
    if _PASSWORD.search(text):  # one with `/` in it, which ends a host
        return f"{text.partition('//')[0]}//..."
    return _SECRET.sub(lambda rest: f"{rest[0][0]}...", _USER.sub("...@", text, count=1))


def parse_url(text: str) -> ClipUrl:
    """Reads a URL.

    Args:
        text: The URL; letters beyond ASCII in its path and blanks are written out.

    Raises:
        ValueProblem: when it is none that is fetched.
    """

    def refuse(what: str, hint: str = "") -> ValueProblem:
        return ValueProblem(f"the URL {quote(show_url(text), most=400)}, {what}", NEED, hint)

    if len(text) > MAX_URL_CHARS:
        raise refuse(f"of {len(text):,} characters")
    if odd := _ODD.search(text.replace(" ", "")):
        raise refuse(f"with the character U+{ord(odd[0]):04X}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise refuse("which is none") from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise refuse(f"with `{scheme}:`")
    if "@" in parts.netloc:
        hint = "give a URL that needs none, or download the clip and give its path"
        raise refuse("with a user or password", hint)
    if "#" in text:
        raise refuse("with `#`, which has no effect", "leave out `#` and what follows; `%23` is the sign itself")
    host = read_host(parts.hostname or "")
    if host is None:
        raise refuse("whose host is none", "a name such as `host.org`, or an address in its usual spelling")
    if port == 0:
        raise refuse("with the port 0")
    path = percent_encode(parts.path, safe=_PATH_SAFE) or "/"
    query = f"?{percent_encode(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else ""
    return ClipUrl(scheme, host, port or PORTS[scheme], path + query)


def read_host(text: str) -> str | None:
    """Returns a host in its one spelling; None for what is no name and no address.

    Args:
        text: A name, or an address; one of IPv6 without brackets.
    """
    text = text.lower()
    if ":" in text:
        try:
            return None if "%" in text else str(ipaddress.IPv6Address(text))
        except ValueError:
            return None
    if not text.isascii():
        import idna

        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError:
            return None
    if len(text) > 253 or not _NAME.fullmatch(text):
        return None
    name = text.removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):  # `0x7f.1`, `2130706433`: systems read them as addresses
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            return None
    return name
