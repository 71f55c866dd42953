"""Which servers there are, and which key each of them may get. Only the user says so, by the environment.

==========  =============================================  ====================================
name        address                                        key
==========  =============================================  ====================================
``openai``  ``https://api.openai.com/v1``                  ``OPENAI_API_KEY``
``gemini``  ``https://generativelanguage.googleapis.com``  ``GEMINI_API_KEY``
any other   ``PROMPTEDITBENCH_NAME_URL``                   ``PROMPTEDITBENCH_NAME_KEY``
==========  =============================================  ====================================

A suite file is data that may come from anybody. It can name one of these servers, and never an address or a key. A
key is bound to its host: that of OpenAI goes to OpenAI alone, also where another name has OpenAI's address.
``--key HOST=VARIABLE`` (:func:`bind_key`) binds another variable to a host.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass

from bench.endpoints.client import EndpointError
from bench.errors import BenchError

OPENAI = "openai"
GEMINI = "gemini"
_URLS = {OPENAI: "https://api.openai.com/v1", GEMINI: "https://generativelanguage.googleapis.com/v1beta"}
_HOSTED_KEYS = {"api.openai.com": "OPENAI_API_KEY", "generativelanguage.googleapis.com": "GEMINI_API_KEY"}

# ``HOST=VARIABLE`` of every ``--key``, joined by commas. In the environment, so that worker processes have it too.
_BOUND = "PROMPTEDITBENCH_KEYS"
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Server:
    """The address of an API, and the environment variables that gave it and that have its key."""

    url: str
    """Base address, without a slash at its end."""
    url_variable: str
    """Empty for an address that is built in."""
    key_variable: str

    @property
    def key(self) -> str:
        """The key, which may be empty. It must not get into a message, a log or a file."""
        return os.environ.get(self.key_variable, "").strip()

    @property
    def host(self) -> str:
        return _address(self.url).hostname or ""

    def problems(self) -> list[str]:
        """Reasons why nothing can be sent there, each with its remedy."""
        problems = []
        address = _address(self.url)
        is_local = address.hostname in _LOCAL

        # The address. A server without a key may be any in a laboratory's network.
        if not address.hostname or address.scheme not in ("http", "https"):
            problems.append(f"{self.url_variable} {self.url!r}: expected https://... or http://...")
        elif address.scheme == "http" and self.key and not is_local:
            problems.append(
                f"{self.url_variable} {self.url!r}: expected https://..., since the key is sent there "
                "(http only for this machine, or without a key)"
            )

        # The key: fit for a header, and there where the server is on the internet.
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            # The value itself is in no message.
            problems.append(f"the environment variable {self.key_variable} holds what cannot be a key")
        if not self.key and address.scheme == "https" and not is_local:
            problems.append(
                f"the environment variable {self.key_variable} is not set: put the API key of "
                f"{address.hostname} there (export {self.key_variable}=...)"
            )
        return problems


def find_server(name: str) -> Server:
    """The server of a name. Raises :class:`EndpointError` where the environment does not have its address."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise EndpointError(
            f"server {name!r}: expected a name of small letters, digits and _, such as openai or images. "
            "Its address stands in the environment."
        )
    if name in _URLS:
        return server_at(_URLS[name], "")
    variable = f"PROMPTEDITBENCH_{name.upper()}_URL"
    url = os.environ.get(variable, "").strip()
    if not url:
        raise EndpointError(
            f"server {name!r}: the environment variable {variable} is not set. Put the address of its API there "
            f"(export {variable}=http://localhost:8000/v1), and its key, if it has one, into "
            f"PROMPTEDITBENCH_{name.upper()}_KEY."
        )
    return server_at(url, variable)


def server_at(url: str, url_variable: str) -> Server:
    """The server at ``url``, with the key of its host. ``url_variable``: environment variable that named it."""
    return Server(url.rstrip("/"), url_variable, _key_variable(url, url_variable))


def server_problems(name: str) -> list[str]:
    """Reasons why the server of a name cannot be used, each with its remedy."""
    try:
        return find_server(name).problems()
    except EndpointError as error:
        return [str(error)]


def bind_key(text: str) -> None:
    """Binds the environment variable of ``HOST=VARIABLE`` to a host. Raises BenchError for another text."""
    host, _, variable = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", host) or not re.fullmatch(
        r"[A-Za-z_][A-Za-z0-9_]*", variable
    ):
        raise BenchError(
            "--key: write HOST=VARIABLE, such as openrouter.ai=OPENROUTER_API_KEY: the name of the environment "
            "variable that has the key, not the key."
        )
    if not os.environ.get(variable, "").strip():
        raise BenchError(
            f"--key {host}={variable}: the environment variable {variable} is not set. Export it first."
        )
    bound = _bound_keys() | {host.lower(): variable}
    os.environ[_BOUND] = ",".join(f"{name}={value}" for name, value in bound.items())


def _bound_keys() -> dict[str, str]:
    """Host -> variable, of every ``--key``."""
    pairs = (pair.partition("=") for pair in os.environ.get(_BOUND, "").split(",") if "=" in pair)
    return {host: variable for host, _, variable in pairs}


def _key_variable(url: str, url_variable: str) -> str:
    """The environment variable whose key may be sent to ``url``."""
    address = _address(url)
    # Host with port: a host such as api.openai.com.example.org is another one.
    bound = _bound_keys().get(address.netloc.lower())
    if bound is not None:
        return bound
    own = url_variable.removesuffix("_URL") + "_KEY"
    return _HOSTED_KEYS.get(address.netloc, own) if address.scheme == "https" else own


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        address = urllib.parse.urlsplit(url)
        address.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        return urllib.parse.urlsplit("")
    return address
