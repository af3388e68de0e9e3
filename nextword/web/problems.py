"""Errors in the form that OpenAI's clients expect: {"error": {"message", "type", "param", "code"}}.

Where a request may succeed later the answer has Retry-After; where it never will it has x-should-retry: false.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nextword.base.types import Json
from nextword.errors import Busy, Closing, ContextOverflow, InputError, NextwordError, TokenizerError

_BUSY_SECONDS = "1"  # seconds: of Retry-After


class UnknownModel(InputError):
    """The request names a model that this server does not have."""


class BadRequest(InputError):
    """One field of the request cannot be used."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def status_of(error: NextwordError) -> int:
    """The HTTP status of an error."""
    match error:
        case Busy():
            return 429
        case Closing():
            return 503
        case UnknownModel():
            return 404
        case InputError() | TokenizerError():  # the latter from a chat template that refuses its messages
            return 400
        case _:
            return 500


def body_of(error: NextwordError) -> Json:
    """The JSON of an error of nextword."""
    match error:
        case Busy():
            return body(str(error), "rate_limit_error", "rate_limit_exceeded")
        case Closing():
            return body(str(error), "server_error", "server_shutting_down")
        case UnknownModel():
            return body(str(error), code="model_not_found", param="model")
        case ContextOverflow():
            return body(str(error), code="context_length_exceeded", param="messages")
        case BadRequest():
            return body(str(error), param=error.param)
        case InputError() | TokenizerError():
            return body(str(error))
        case _:
            return body(str(error), "server_error")


def body(message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None) -> Json:
    """The JSON of an error.

    Args:
        message: One sentence for people; lone surrogates in it are escaped.
        kind: The error's `type` in OpenAI's API.
        code: The error's `code` there, for programs.
        param: The field of the request that is at fault.
    """
    safe = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": safe, "type": kind, "param": param, "code": code}}


def response(status: int, content: Json, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that carries an error.

    Args:
        status: The HTTP status.
        content: The error, as `body` makes it.
        headers: More headers.
    """
    headers = dict(headers or {})
    if status in (429, 503):
        headers["Retry-After"] = _BUSY_SECONDS
    elif status < 500:
        headers["x-should-retry"] = "false"
    return JSONResponse(content, status, headers)


def install(app: FastAPI) -> None:
    """Make the app answer every error in this way."""

    @app.exception_handler(NextwordError)
    async def known(request: Request, error: NextwordError) -> JSONResponse:
        return response(status_of(error), body_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            payload = f"The request's body is not JSON: {first['ctx']['error']}, at character {first['loc'][1]}."
            return response(400, body(payload))
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return response(400, body(f"{param or 'The request'}: {first['msg']}."[:500], param=param))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        sentences = {
            400: "The request's body is not JSON.",
            404: f"There is no {request.url.path[:200]} here.",
            405: f"{request.url.path[:200]} cannot be asked with {request.method[:20]}.",
        }
        message = sentences.get(error.status_code, str(error.detail))
        return response(error.status_code, body(message), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return response(500, body("The server made a mistake; its log says more.", "server_error"))
