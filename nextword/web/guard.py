"""Access rules: key, origin, host and body size, checked before anything else sees a request.

Promises, each with a test: without the key, where there is one, only /health answers; a page of another origin gets
nothing unless its origin was allowed; a server that only this machine can reach answers only to this machine's own
names, so that no foreign name can be made to point at it (DNS rebinding); a body over the limit is refused before the
server reads it, or, where no length is declared, as soon as it is too long.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextword.web import problems

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_OPEN = "/health"
_KEYLESS = (
    "The API key is missing or wrong: send Authorization: Bearer KEY; in a browser, any name and KEY as password."
)
_DRAINED = 1 << 26  # bytes: read at most of a body that is refused for its length


@dataclass(frozen=True)
class Rules:
    """What a request must keep to be answered.

    Args:
        api_key: The key to be sent with it, None: none.
        origins: Other origins whose pages may send requests, "*" for all.
        hosts: Names that requests may be addressed to, None: any.
        body_limit: Size of a body, in bytes.
    """

    api_key: str | None = None
    origins: Collection[str] = ()
    hosts: Collection[str] | None = None
    body_limit: int = 1 << 20


def hosts_of(host: str) -> Collection[str] | None:
    """The names that a server bound to `host` answers to: local ones where only this machine reaches it, else any."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    return (*_LOCAL, host) if local else None


class Guard:
    """ASGI middleware that answers a request that breaks the rules with 401, 403 or 413."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        if refusal is not None:
            status, sentence, code = refusal
            if status == 413:
                await _drain(receive)
            await self._refuse(scope, receive, send, status, sentence, code)
            return
        await self._limited(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str, str | None] | None:
        rules = self._rules
        is_open = path == _OPEN or method == "OPTIONS"  # a browser's preflight request never has a key
        host = headers.get("host", "")
        if rules.hosts is not None and _name(host) not in rules.hosts:
            return 403, "This server answers only to the names of its own machine.", None
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, host):
            return 403, "A page of another origin may not ask; start the server with --allow-origin.", None
        if rules.api_key is not None and not is_open and not _has_key(headers.get("authorization", ""), rules.api_key):
            return 401, _KEYLESS, "invalid_api_key"
        if int(length if (length := headers.get("content-length", "0")).isdecimal() else 0) > rules.body_limit:
            return 413, self._too_long(), None
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        own = origin.partition("://")[2]
        return own == host or origin in self._rules.origins or "*" in self._rules.origins

    def _too_long(self) -> str:
        return f"The request is over {self._rules.body_limit:,} bytes long; send less."

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; refuse the request as soon as its body is longer than the limit."""
        length, started = 0, False

        async def counted() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > self._rules.body_limit:
                raise _TooLongError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLongError:
            if not started:
                await _drain(receive)
                await self._refuse(scope, receive, send, 413, self._too_long(), None)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, status: int, sentence: str, code: str | None
    ) -> None:
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        # A browser then asks its user for a password, and sends it with all requests of the page.
        headers = {"WWW-Authenticate": 'Basic realm="nextword (any name; the API key as password)"'}
        content = problems.body(sentence, kind, code)
        await problems.response(status, content, headers if status == 401 else {})(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Read the rest of a body, up to `_DRAINED` bytes: most clients read no answer before they have sent it."""
    length, more = 0, True
    while more and length < _DRAINED:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)


class _TooLongError(BaseException):
    """The body is too long. Not an Exception, so that no handler of the app catches it."""


def _name(host: str) -> str:
    """A Host header's name, without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _has_key(authorization: str, key: str) -> bool:
    """Bearer KEY; or Basic with the key as password, which is what a browser can send."""
    scheme, _, given = authorization.partition(" ")
    given = given.strip()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())
