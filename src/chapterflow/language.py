"""The language of what readers of results see: pages, tables and their sentences.

Messages are written in English where they are used; `messages/<language>.json` has their
translations. Logs, errors, JSON keys and the names of models, metrics and files stay English.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TypeVar

from chapterflow.errors import ConfigError


class Language(StrEnum):
    """A language of pages and tables."""

    en = "en"
    ko = "ko"


CATALOGUES = Path(__file__).parent / "messages"
VARIABLE = "CHAPTERFLOW_LANG"
#: Of these the first that is set decides, as for other programs (POSIX, section 8.2).
LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")

Texts = TypeVar("Texts", str, list[str], dict[str, str])

#: Letters of a recorded sentence, without its values.
LEAST = 20

_chosen: Language | None = None
#: Files that are compared between machines are written in English, whatever the reader's language.
_within: ContextVar[Language | None] = ContextVar("language", default=None)


def choose_language(language: Language | None) -> None:
    """Set the language of this process; None for the one of the environment.

    Raises:
        ConfigError: If the variable names a language without messages.
    """
    global _chosen  # noqa: PLW0603 - a command chooses once, before everything else
    _chosen = language or _of_environment()


def language() -> Language:
    """Return the language of messages."""
    return _within.get() or _chosen or _of_environment()


def _of_environment() -> Language:
    if value := os.environ.get(VARIABLE):
        if value not in [*Language]:
            raise ConfigError(
                f"{VARIABLE} must be {' or '.join(Language)}. Received: {value!r}; "
                f"`unset {VARIABLE}` leaves the choice to the locale"
            )
        return Language(value)
    locale = next((value for name in LOCALE if (value := os.environ.get(name))), "")
    return Language.ko if locale.startswith("ko") else Language.en


@contextmanager
def speaking(wanted: Language) -> Iterator[None]:
    """Use a language within a block or a function."""
    token = _within.set(wanted)
    try:
        yield
    finally:
        _within.reset(token)


@cache
def catalogue(wanted: Language) -> Mapping[str, str]:
    """Return the translations of a language by their English messages; none for English."""
    if wanted is Language.en:
        return {}
    text = (CATALOGUES / f"{wanted}.json").read_text(encoding="utf-8")
    messages: dict[str, str] = json.loads(text)
    return messages


def message(texts: Texts) -> Texts:
    """Mark a message, a list or the values of a dict, that `tr` translates later, and return it."""
    return texts


def tr(text: str, /, **values: object) -> str:
    """Return a message in the chosen language.

    Args:
        text: The message in English, with `{name}` for each value.
        **values: Values by name.
    """
    translated = catalogue(language()).get(text, text)
    return translated.format(**values) if values else translated


def trn(one: str, many: str, /, count: int, **values: object) -> str:
    """Return a message about a number: `one` if it is 1, or else `many`.

    Args:
        one: The message in English for 1.
        many: The message in English for other numbers.
        count: The number; messages may contain it as `{count}`.
        **values: Further values by name.
    """
    return tr(one if count == 1 else many, count=f"{count:,}", **values)


def recorded(text: str) -> str:
    """Return a sentence that a run or a dataset recorded in English, in the chosen language.

    It contains its values already, so it is compared with messages in which they are `{name}`.
    Values that are messages are translated, too; other sentences stay as they are.
    """
    translations = catalogue(language())
    if text in translations:
        return translations[text]
    for pattern, translation in _patterns(language()):
        if match := pattern.fullmatch(text):
            values = {
                name: translations.get(value, translations.get(value.lower(), value))
                for name, value in match.groupdict().items()
            }
            return translation.format(**values)
    return text


@cache
def _patterns(wanted: Language) -> list[tuple[re.Pattern[str], str]]:
    """Return the messages of a language as patterns of sentences, the longest first."""
    patterns = []
    for text, translation in sorted(catalogue(wanted).items(), key=lambda pair: -len(pair[0])):
        literal, *rest = re.split(r"{(\w+)}", text)
        # A message of few words, such as "{low} to {high}", would match any sentence.
        if not rest or "{" in literal or len("".join([literal, *rest[1::2]])) < LEAST:
            continue
        expression = re.escape(literal)
        for name, following in zip(rest[::2], rest[1::2], strict=True):
            again = f"(?P<{name}>" in expression
            expression += f"(?P={name})" if again else f"(?P<{name}>.+?)"
            expression += re.escape(following)
        patterns.append((re.compile(expression, re.DOTALL), translation))
    return patterns
