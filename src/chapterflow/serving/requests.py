"""Requests of the scoring server: refused in one clear sentence, or answered by MLflow.

MLflow's own refusals repeat the whole input and a traceback; it takes text that looks like a number
for one, and no tables of graphs, whose sides vary. So what a request says is looked at before
MLflow reads it.
"""

from __future__ import annotations

import json
import math
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from chapterflow.shipped.answers import Inputs

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
JSON = "application/json"
_FORMS = f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"


@dataclass(frozen=True)
class Reply:
    """What a client is sent.

    Attributes:
        status: HTTP status.
        body: A JSON document.
    """

    status: int
    body: str


class Refusal(Exception):
    """A request that is answered with a status of 4xx.

    Attributes:
        reply: What the client is sent.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(status, json.dumps({"error_code": code, "message": message}))


def answer(model: Any, inputs: Inputs, body: bytes, content_type: str | None) -> Reply:
    """Return a model's answer to the body of a request.

    Args:
        model: `mlflow.pyfunc.PyFuncModel` of a logged chapter model.
        inputs: What it takes.
        body: In one of MLflow's JSON forms: `FORMS`.
        content_type: The request's header.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    try:
        document = _document(body, content_type)
        form = _form(document)
        columns = _columns(form, document[form])
        table = form.startswith("dataframe")
        if table:
            columns = _shaped(columns, inputs)
        try:
            values = inputs.checked(columns.get(None, columns))
        except MlflowException as error:
            status = error.get_http_status_code()
            raise Refusal(status, error.error_code, error.message) from None
        if table:
            lists = {name: value.tolist() for name, value in values.items()}
            document = {"inputs": lists.get(None, lists)}
        found = scoring_server.invocations(document, JSON, model, model.metadata.get_input_schema())
        return Reply(found.status, found.response)
    except Refusal as refusal:
        return refusal.reply
    except Exception:
        traceback.print_exc()
        return _failed()


def _document(body: bytes, content_type: str | None) -> dict[str, Any]:
    media = (content_type or "").partition(";")[0].strip().lower()
    if media != JSON:
        _refuse(f"Content-Type must be {JSON}", media or "none", 415, "UNSUPPORTED_MEDIA_TYPE")
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        start = body[:40].decode("utf-8", "replace")
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        _refuse("The body must be a JSON document", f"{start!r} ({reason})")
    if not isinstance(document, dict):
        _refuse(f"The body must be an object with one of the keys {_FORMS}", _named(document))
    return document


def _no_constant(name: str) -> NoReturn:
    _refuse("All numbers must be finite", name)


def _form(document: dict[str, Any]) -> str:
    forms = [key for key in document if key in FORMS]
    if len(forms) != 1:
        _refuse(f"The body must have one of the keys {_FORMS}", _keys(document))
    return forms[0]


def _columns(form: str, content: Any) -> dict[str | None, Any]:
    """Return the values of each input by its name, None for the one that has no name."""
    if form == "dataframe_split":
        if not isinstance(content, dict) or not {"columns", "data"} <= set(content):
            received = _keys(content) if isinstance(content, dict) else _named(content)
            _refuse("dataframe_split must be an object with columns and data", received)
        names, rows = content["columns"], content["data"]
        if not _is_table(names, rows):
            _refuse(
                "dataframe_split must hold a value in each row for each of its columns", "others"
            )
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    if isinstance(content, dict) and form != "dataframe_records":
        return dict(content)
    if not isinstance(content, list) or not content:
        received = "an empty one" if content == [] else _named(content)
        _refuse(f"{form} must be a list of examples", received)
    if not any(isinstance(row, dict) for row in content):
        if form == "dataframe_records":
            _refuse("dataframe_records must be a list of objects", "a list of others")
        return {None: content}
    if not all(isinstance(row, dict) and set(row) == set(content[0]) for row in content):
        _refuse(f"{form} must be objects with the same keys", "different ones")
    return {name: [row[name] for row in content] for name in content[0]}


def _is_table(names: Any, rows: Any) -> bool:
    return (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def _shaped(columns: dict[str | None, Any], inputs: Inputs) -> dict[str | None, Any]:
    """Return the columns of a table as the inputs that they are: cells may be flat lists.

    The one column of a model whose input has no name may be called anything.
    """
    if None in inputs.wanted and len(columns) == 1:
        columns = {None: next(iter(columns.values()))}
    return {
        name: _unflat(cells, inputs.wanted[name]["shape"]) if name in inputs.wanted else cells
        for name, cells in columns.items()
    }


def _unflat(cells: list[Any], shape: list[int | None]) -> Any:
    """Return the cells as an array of a shape; as they are where they cannot be."""
    import numpy as np

    try:
        value = np.asarray(cells)
        if value.ndim != 2 or len(shape) <= 2:
            return value
        sides = [-1 if side is None else side for side in shape[1:]]
        if sides == [-1, -1]:  # an adjacency matrix is square
            sides = [math.isqrt(value.shape[1])] * 2
        return value.reshape(len(value), *sides)
    except ValueError:
        return cells


def _keys(document: dict[str, Any]) -> str:
    """Return the first keys of an object, as messages show them."""
    return ", ".join(repr(key[:40]) for key in list(document)[:5]) or "none"


def _named(value: Any) -> str:
    """Return what kind of JSON a value is."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _failed() -> Reply:
    message = "The model failed; the server's console says why."
    return Reply(500, json.dumps({"error_code": "INTERNAL_ERROR", "message": message}))


def _refuse(expected: str, received: str, status: int = 400, code: str = "BAD_REQUEST") -> NoReturn:
    raise Refusal(status, code, f"{expected}. Received: {received}")
