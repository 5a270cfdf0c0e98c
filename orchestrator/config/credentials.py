"""Secrets in settings and texts: taken out of all that is written or printed, and named by the
variable that they can be given in.

A setting may hold `${secret:NAME}` in a secret's place: the environment variable NAME, or the
content of a file where NAME has a slash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from orchestrator.config import secret_forms

HIDDEN = "***"
ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>[^\s\"<>`]+)")
SECRET_NAME = r"(?:[\w.-]*(?:passw(?:or)?d|passphrase|token|secret|signature|credential|api[_-]?key|access[_-]?key|account[_-]?key)[\w.-]*|pwd|pass|auth|sig|key|sas|jwt|bearer|odbc_connect)"
"""Names of settings whose value is a secret."""
QUERY = re.compile(
    rf"(?i)(?P<before>[?&;#])(?!credential_kind=)(?P<name>{SECRET_NAME})=(?!\*\*\*)(?P<value>[^&;#\s'\"]+)"
)
STORE_KEY = re.compile(r"[?&]\w*(secret|token|key)\w*=")
"""A secret in the query of an object store's address, whatever its name is exactly."""
LOOSE = re.compile(
    r"(?i)(\b(?:password|passwd|pwd|sslpassword)\s?=\s?)(?!\*\*\*)('[^']*'|[^\s'\"&;,]+)"
)
"""A database's own way of writing a connection, which its errors repeat."""
HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)\s+)[^\s'\"]+")
BEARER = re.compile(r"(?i)(\bbearer\s+)(?=[^\s'\"]*[\d=])[^\s'\"]{8,}")
BASIC = re.compile(r"(?i)(?P<before>\bbasic\s+)(?P<value>[A-Za-z\d+/]{8,}={0,2})(?![\w+/=])")
"""The same without the header's name, as libraries repeat its value."""
NAMELESS = (
    *("postgres", "postgresql", "ssh", "git+ssh", "sqlite"),
    *("abfs", "abfss", "gs", "gcs", "hdfs"),
)
"""Schemes in which a name alone, before the @, is no secret: a user's, or a container's."""
LONGEST_NAME = 20
"""Characters of a name; what is longer may be a token in its place."""
DUMMIES = ("", "x-oauth-basic", "x-token-auth")
"""Passwords that say that the name is the secret."""
VARIABLES = {
    ("http", "name"): "MLFLOW_TRACKING_TOKEN",
    ("http", "password"): "MLFLOW_TRACKING_PASSWORD",
    ("postgresql", "password"): "PGPASSWORD",
}

SECRET_SETTING = "serve.token"
"""The setting that is a secret as a whole; others name the variable or the file that holds one."""
SECRET_VARIABLE = "SERVE_TOKEN"
QUOTES = "'\""
TYPED_SECRET = re.compile(r"(?s)(?P<before>\+{0,2}(?:[\w.]+\.)?serve\.token=)(?P<value>.+)")
TYPED_SECTION = re.compile(
    r"(?s)(?<=[{,])(?P<before>\s*token\s*:\s*)(?P<value>'[^']*'|\"[^\"]*\"|[^,}\s]+)"
)
"""The same within serve={...}."""

SECRETS: set[str] = set()
"""Secrets of this command, as they were given: `mask` takes them out of any text."""
USERS: dict[str, str] = {}
"""What stood before a host in the addresses of this command, its @ included, and what is shown of
it: there a secret of any length is found, whatever it holds.
"""
NO_USER = re.compile(r"(?i)localhost|\d+(\.\d+){3}")
"""Hosts that nobody is called like."""


class Missing(ValueError):
    """A secret that is asked for and not given."""


def mask(text: str) -> str:
    """Hide every secret in `text`: in the addresses that it holds, and those of this command
    wherever they stand.
    """
    for user in sorted(USERS, key=len, reverse=True):
        text = text.replace(user, USERS[user])
    text = secret_forms.pattern(frozenset(SECRETS)).sub(HIDDEN, text)
    text = ADDRESS.sub(lambda address: replaced(address, None), text)
    text = BEARER.sub(rf"\1{HIDDEN}", text)
    text = BASIC.sub(
        lambda sent: (
            f"{sent['before']}{HIDDEN}" if secret_forms.is_signed(sent["value"]) else sent[0]
        ),
        text,
    )
    return HEADER.sub(
        rf"\1{HIDDEN}", LOOSE.sub(rf"\1{HIDDEN}", QUERY.sub(rf"\g<before>\g<name>={HIDDEN}", text))
    )


def replaced(address: re.Match[str], names: Mapping[tuple[str, str], str] | None) -> str:
    """An address with `***` in a secret's place, or with the variable that `names` has for it."""
    scheme = address["scheme"]
    after_scheme = address["rest"]
    kind = dialect(scheme)
    user, after_user = split_user(after_scheme, kind)

    def hidden(field: str) -> str:
        variable = re.sub(r"\W", "_", f"TRACKING_{field}".upper())
        return HIDDEN if names is None else reference(names.get((kind, field), variable))

    if user is not None:
        user = shown_user(user, kind, hidden)
    after_user = QUERY.sub(
        lambda query: (
            f"{query['before']}{query['name']}={kept_or(query['value'], hidden(query['name'].lower()))}"
        ),
        after_user,
    )
    return f"{scheme}://{after_user}" if user is None else f"{scheme}://{user}@{after_user}"


def shown_user(user: str, kind: str, hidden: Callable[[str], str]) -> str:
    """What stands before the @ of an address, with what `hidden` has for a name or a password that
    is a secret.
    """
    name, colon, password = user.partition(":")
    if password not in DUMMIES and not looks_secret(name, kind):
        return f"{name}:{kept_or(password, hidden('password'))}"
    if kind in NAMELESS and password in DUMMIES:
        return user
    return kept_or(name, hidden("name")) + (
        f"{colon}{kept_or(password, hidden('password'))}" if password else ""
    )


def looks_secret(name: str, kind: str) -> bool:
    """Whether what stands in a name's place is a token: of servers only, and none is as short as a
    name or holds an @.
    """
    return kind not in NAMELESS and len(name) > LONGEST_NAME and "@" not in name


def kept_or(value: str, hidden: str) -> str:
    """A value that is hidden already or asked for, or its replacement."""
    asked = re.fullmatch(r"\$\{[\w.]+:.*\}", value)
    return value if value == HIDDEN or asked or not value else hidden


def split_user(after_scheme: str, kind: str) -> tuple[str | None, str]:
    """What stands before the @ of an address, None without one, and what stands behind it.

    A password that was typed as it is may hold any character, so the last @ counts that can be the
    one. Digits may be a port, or a password's beginning: then an @ in the path counts, too, and one
    in a query of a server; a database has its user's name there.
    """
    authority = re.split(r"[/?#]", after_scheme, maxsplit=1)[0]
    host, _, port = authority.partition(":")
    is_port = "@" not in authority and port.isdigit()
    if "@" not in authority and (
        not port or authority.startswith("[") or (is_port and NO_USER.fullmatch(host))
    ):
        return None, after_scheme  # HOST or HOST:PORT: an @ behind it belongs to the path
    before, mark, query = after_scheme.partition("?")
    named = "=" in query.partition("@")[0] and not (is_port and kind == "http")
    if "@" in query and (not named or ("@" not in before and not is_port)):
        # the ? is the password's
        before = after_scheme
        mark = ""
        query = ""
    user, at, host = before.rpartition("@")
    return (user, host + mark + query) if at else (None, after_scheme)


def is_ambiguous(uri: str) -> bool:
    """Whether nobody can tell a port and a path that holds an @ from a password with a slash."""
    scheme, _, after_scheme = uri.partition("://")
    port = re.split(r"[/?#]", after_scheme, maxsplit=1)[0].partition(":")[2]
    is_port = port.isdigit() and int(port) < 2**16
    return is_port and split_user(after_scheme, dialect(scheme))[0] is not None


def dialect(scheme: str) -> str:
    """postgresql for postgres and postgresql+psycopg, http for https."""
    name = scheme.lower().partition("+")[0]
    return {"https": "http", "postgres": "postgresql"}.get(name, name)


def reference(variable: str) -> str:
    """How a setting asks for a variable."""
    return f"${{secret:{variable}}}"


def resolve(name: str) -> str:
    """The secret that a setting asks for, as it stands in an address. Raises Missing."""
    if "/" in name:
        try:
            value = Path(name).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Missing(
                f"the secret's file {name} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is no text'}"
            ) from error
    else:
        value = os.environ.get(name, "")
    if not value:
        raise Missing(
            f"{name}, which holds the secret, is "
            f"{'empty' if '/' in name else 'not set in the environment'}"
        )
    remember(value)
    return quote(value, safe="")


def remember(*secrets: str) -> None:
    """Take these out of every text from now on."""
    for secret in secrets:
        SECRETS.update(secret_forms.forms_of(secret))


def remember_environment() -> None:
    """The same for the variables that hold secrets by their names, and for addresses in others: of
    a proxy, an index, a database.
    """
    for name, value in os.environ.items():
        for address in ADDRESS.finditer(value):
            remember_address(address[0])
        remember(*secret_forms.of_variable(name, value))


def remember_address(uri: str) -> None:
    """The same for what an address holds, also one whose beginning was mistyped."""
    scheme, separator, after_scheme = uri.partition("://")
    if not separator:
        scheme, after_scheme = "", without_scheme(uri)
    kind = dialect(scheme)
    user, after_user = split_user(after_scheme, kind)
    name, _, password = (user or "").partition(":")
    secrets = [] if password in DUMMIES else [password]
    if user is not None and kind not in NAMELESS and (not secrets or looks_secret(name, kind)):
        secrets.append(name)
    secrets += [query["value"] for query in QUERY.finditer(after_user)]
    remember(*secrets, *map(unquote, secrets))
    if user is not None:
        shown = shown_user(user, kind, lambda field: HIDDEN)
        USERS.update({f"{user}@": f"{shown}@"} if shown != user else {})


def remember_settings(raw: Any, path: str = "") -> None:
    """The same for every setting of a composed configuration that is a secret or an address."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            remember_settings(value, f"{path}.{key}")
    elif isinstance(raw, list):
        for value in raw:
            remember_settings(value, path)
    elif isinstance(raw, str) and is_secret(path):
        remember(raw, unquote(raw))
    elif isinstance(raw, str) and ADDRESS.match(raw):
        remember_address(raw)


def is_secret(path: str) -> bool:
    """Whether a setting, by its dotted path, is a secret as a whole; of a fleet's tasks, too."""
    return f".{path}".endswith(f".{SECRET_SETTING}")


def shown_value(path: str, value: Any) -> str:
    """A setting's value in a message."""
    return HIDDEN if is_secret(path) else mask(str(value))


def without_scheme(uri: str) -> str:
    """What follows the beginning of an address that is none: http:/HOST, //HOST, HOST."""
    return re.sub(r"^(?:[A-Za-z][\w+.-]*:(?=/)|https?:)?/*", "", uri)


def escaped(uri: str) -> str:
    """An address whose name and password hold only characters that every library reads the same
    way.
    """
    scheme, separator, after_scheme = uri.partition("://")
    user, after_user = split_user(after_scheme, dialect(scheme))
    if not separator or user is None:
        return uri
    name, colon, password = user.partition(":")
    name, password = (quote(unquote(credential), safe="") for credential in (name, password))
    return f"{scheme}://{name}{colon}{password}@{after_user}"


def printable(text: str) -> str:
    """A setting as it was typed, with the variables to give its secrets in; it means the same where
    they are set.
    """
    if (typed := TYPED_SECRET.fullmatch(text)) is not None:
        return typed["before"] + kept_or(typed["value"].strip(QUOTES), reference(SECRET_VARIABLE))
    if re.match(r"\+{0,2}serve=\{", text):
        text = TYPED_SECTION.sub(
            lambda one: (
                f"{one['before']}'{kept_or(one['value'].strip(QUOTES), reference(SECRET_VARIABLE))}'"
            ),
            text,
        )
    address = re.fullmatch(
        r"(?s)(?P<before>(?:[\w.+~@/]+=)?)(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>.+)", text
    )
    if address is not None:  # all of it is the address, whatever its secret holds
        return address["before"] + replaced(address, VARIABLES)
    return ADDRESS.sub(lambda match: replaced(match, VARIABLES), text)


def holds_secret(text: str) -> bool:
    """Whether a setting holds a secret that others could read."""
    return printable(text) != text


def store_problem(location: str) -> str | None:
    """Why the address of an object store may not be a setting; None where it may."""
    if not (holds_secret(location) or STORE_KEY.search(location)):
        return None
    return (
        "holds a secret, which all who see the plan or the cluster's jobs could read; give it in "
        "the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in pods: "
        "cluster.environment_secrets)"
    )


def without_secrets(raw: Any, free: tuple[str, ...] = (), path: str = "") -> Any:
    """A composed configuration as it may be kept. `free` are settings that hold a text in natural
    language, which stays as it is.
    """
    if isinstance(raw, dict):
        return {
            key: without_secrets(value, free, f"{path}.{key}".lstrip("."))
            for key, value in raw.items()
        }
    if isinstance(raw, list):
        return [without_secrets(value, free, path) for value in raw]
    if is_secret(path) and raw is not None:
        return kept_or(str(raw), reference(SECRET_VARIABLE))
    return printable(raw) if isinstance(raw, str) and path not in free else raw
