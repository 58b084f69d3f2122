"""TLS and users of the endpoint, from a file as exporter-toolkit has it (`--web.config.file`).

Of YAML only what such files need is read: two levels of `name: value`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re

from ..errors import IPTCError
from .passwords import hashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

_LINE = re.compile(r"( *)([^\s:#'\"]+|'[^']*'|\"[^\"\\]*\") *:(?: +(.*?))? *")
_VALUE = re.compile(
    r"'((?:[^']|'')*)' *(?:#.*)?"
    r"|\"([^\"\\]*)\" *(?:#.*)?"
    r"|([^'\"#\[\]{}&*!|>%@`-](?:[^#]|(?<! )#)*?)(?: +#.*)?"
)
_KEYS = {
    "tls_server_config": {"cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version"},
    "basic_auth_users": None,
    "http_server_config": {"http2"},
}
_CLIENTS = ("NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_VERSIONS = {"TLS12": "TLSv1_2", "TLS13": "TLSv1_3"}
_MOST_KNOWN = 100


class WebConfig:
    """The content of a file: `users` is {name: hash of the password}, and the settings of TLS."""

    def __init__(
        self, tls: dict[str, str] | None = None, users: dict[str, str] | None = None, folder: str = ""
    ) -> None:
        self.users = users or {}
        self._tls = tls or {}
        self._folder = folder
        self._known: dict[bytes, bool] = {}

    def context(self) -> ssl.SSLContext | None:
        """Return the context for TLS, or None if the file does not ask for TLS."""
        if not self._tls:
            return None
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion[_VERSIONS[self._tls.get("min_version", "TLS12")]]
        try:
            context.load_cert_chain(self._path("cert_file"), self._path("key_file"))
            kind = self._tls.get("client_auth_type", _CLIENTS[0])
            if kind != _CLIENTS[0]:
                context.verify_mode = ssl.CERT_REQUIRED if kind.startswith("Require") else ssl.CERT_OPTIONAL
            if "client_ca_file" in self._tls:
                context.load_verify_locations(self._path("client_ca_file"))
        except (OSError, ssl.SSLError) as error:
            raise IPTCError(f"can't use the certificates of the endpoint: {error}") from None
        return context

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, self._tls[key])

    def is_known(self, given: str) -> bool | None:
        """Return whether this `Authorization` header was right when it was checked; None if it was not checked."""
        return self._known.get(_digest(given))

    def check(self, given: str) -> bool:
        """Whether an `Authorization` header has a user and the right password. It is slow, as hashes of passwords are
        meant to be."""
        kind, _, words = given.partition(" ")
        try:
            pair = base64.b64decode(words, validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            pair = b""
        name, _, password = pair.partition(b":")
        # an unknown user takes as much time as a known one
        wanted = self.users.get(name.decode("utf-8", "replace"))
        against = wanted or next(iter(self.users.values()))
        # crypt() reads only up to a NUL
        same = hmac.compare_digest(hashed(password.replace(b"\0", b"?"), against.encode()), against.encode())
        right = same and wanted is not None and b"\0" not in password
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[_digest(given)] = right
        return right


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()


def read(path: str) -> WebConfig:
    """Return the `WebConfig` of a file. Raises `IPTCError` with what is wrong in it."""
    try:
        with open(path, encoding="utf-8") as file:
            sections = _sections(path, file.read())
    except (OSError, UnicodeError) as error:
        raise IPTCError(f"can't read {path}: {error}") from None
    tls, users = sections.get("tls_server_config", {}), sections.get("basic_auth_users", {})
    for key in ("cert_file", "key_file") if tls else ():
        if key not in tls:
            raise IPTCError(f"{path}: tls_server_config needs {key}")
    if tls.get("client_auth_type", _CLIENTS[0]) not in _CLIENTS:
        raise IPTCError(f"{path}: client_auth_type is one of {', '.join(_CLIENTS)}")
    if tls.get("client_auth_type", _CLIENTS[0]) not in _CLIENTS[:2] and "client_ca_file" not in tls:
        raise IPTCError(f"{path}: to verify clients, client_ca_file is needed")
    if tls.get("min_version", "TLS12") not in _VERSIONS:
        raise IPTCError(f"{path}: min_version is one of {', '.join(_VERSIONS)}")
    for name, wanted in users.items():
        if not re.fullmatch(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}", wanted):
            raise IPTCError(f"{path}: the password of {name} is not hashed by bcrypt (htpasswd -nBC 10 {name})")
        if len(hashed(b"", wanted.encode())) != len(wanted):
            raise IPTCError("this system's crypt() does not know bcrypt, which passwords of the endpoint need")
    return WebConfig(tls, users, os.path.dirname(path))


def _sections(path: str, text: str) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#") or line == "---":
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise IPTCError(f"{path}, line {number}: not understood: {line.strip()}")
        indent, key, rest = found[1], found[2].strip("'\""), (found[3] or "").strip()
        allowed = _KEYS.get(section if indent else key, ())
        if not indent:
            section = key
            known = allowed != () and key not in sections and (not rest or rest.startswith("#"))
            sections[key] = {}
        else:
            value = _VALUE.fullmatch(rest)
            known = (allowed is None or key in allowed) and value is not None and key not in sections[section]
            if known and value is not None:
                sections[section][key] = next(part for part in value.groups() if part is not None).replace("''", "'")
        if not known:
            raise IPTCError(f"{path}, line {number}: not understood: {line.strip()}")
    return sections
