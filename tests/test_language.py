"""One catalogue of messages: nothing lacks its translation, and nothing in it is stale."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest
import yaml
from jinja2 import nodes

from chapterflow.checks import TEMPLATES, State, templates
from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.language import (
    CATALOGUES,
    LOCALE,
    VARIABLE,
    Language,
    catalogue,
    choose_language,
    language,
    speaking,
    tr,
    trn,
)
from chapterflow.models.catalog import get_model, model_names
from chapterflow.page.playground import ASSETS
from chapterflow.tracking.records import Outcome
from tests.conftest import REPOSITORY

#: Titles of datasets without one in `params.yaml`, as their sources write them.
TITLES = (
    "Handwritten digits, 8x8, 17 grey levels",
    "Handwritten digits, 8x8, 17 grey levels: {classes}",
    "Sinusoids, steps and spikes under noise of several levels",
    "Bodies of {count} kinds as voxels, turned and moved at random",
    "Random graphs of four families, matched in size and density",
    "Zachary's karate club",
)
SOURCE = REPOSITORY / "src" / "chapterflow"


def constants(node: ast.expr) -> Iterator[str]:
    """Yield the texts of an expression; keys of dicts are no texts."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*constants(node.body), *constants(node.orelse))
    elif isinstance(node, ast.Dict):
        yield from (text for value in node.values for text in constants(value))
    elif isinstance(node, ast.List):
        yield from (text for value in node.elts for text in constants(value))


def sentence(node: ast.expr) -> Iterator[str]:
    """Yield a text, with `{name}` for each expression that an f-string names."""
    if not isinstance(node, ast.JoinedStr):
        yield from constants(node)
        return
    parts, expressions = [], {}
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            expression = ast.unparse(part.value)
            name = re.findall(r"\b[a-z]\w*\b(?!\()", expression)[-1]
            assert expressions.setdefault(name, expression) == expression, expression
            parts.append(f"{{{name}}}")
        else:
            parts.extend(constants(part))
    yield "".join(parts)


def in_code(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            count = {"tr": 1, "message": 1, "trn": 2}.get(node.func.id, 0)
            yield from (text for argument in node.args[:count] for text in constants(argument))
            if node.func.id in ("check", "_none") and len(node.args) > 3:
                yield from sentence(node.args[3])  # Why an expectation matters.


def in_template(path: Path) -> Iterator[str]:
    tree = templates(path.parent).parse(path.read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in ("tr", "trn"):
            yield from (arg.value for arg in call.args if isinstance(arg, nodes.Const))


def in_parameters() -> Iterator[str]:
    """Yield the chapter's questions, roles, titles of datasets, and names of variants."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    yield from (question["title"] for question in params["questions"].values())
    yield from (role.capitalize() for role in params["roles"])
    yield from (block["title"] for block in params["datasets"].values() if "title" in block)
    for model in params["models"].values():
        for profile in (model, model.get("book", {})):
            yield from (name.replace("_", " ") for name in profile.get("beside", {}))


def used() -> set[str]:
    """Return all messages: of code and templates, of the playground, and of the chapter."""
    texts = {text for path in SOURCE.rglob("*.py") for text in in_code(path)}
    for folder in (TEMPLATES, ASSETS, ASSETS.parent):
        texts |= {text for path in folder.glob("*.jinja") for text in in_template(path)}
    texts |= set(json.loads((ASSETS / "words.json").read_text(encoding="utf-8")).values())
    texts |= {state.capitalize() for state in get_args(State)}
    models = [get_model(name) for name in model_names()]
    texts |= {text for model in models for text in (model.summary, model.section) if text}
    return texts | set(in_parameters()) | set(SPLITS) | set(TITLES)


def placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field is not None}


@pytest.mark.parametrize("name", [name for name in Language if name != "en"])
def test_each_message_has_its_translation_and_no_translation_is_stale(name: Language) -> None:
    text = (CATALOGUES / f"{name}.json").read_text(encoding="utf-8")
    pairs = json.loads(text, object_pairs_hook=list)
    translations = dict(pairs)
    assert len(translations) == len(pairs), "a message occurs twice"
    messages = used()
    assert len(messages) > 400, "the search for messages misses some"
    assert messages - set(translations) == set()
    assert set(translations) - messages == set()
    for message, translation in translations.items():
        assert translation.strip(), message
        assert placeholders(translation) == placeholders(message), message


#: English that Korean readers know: names of methods, measures and tools; short headings.
NAMES = r"""
    accuracy_|AUC|DejaVu|Adebayo|A / B|B-A|FLOPs|F1|GCN|Grad-CAM|GoogLeNet|Git|git|Holm|MFLOPs
    |MLflow|MNIST|TensorFlow\ Hub|SavedModel|VGGNet|LeNet|RGB|MUTAG|Cora|DNN|CNN|GIN
    |McNemar|Prefect|ReLU|RMSE|Savitzky-Golay|SG|UTC|Wilson|CSV|Data\ Docs|NaN|Backspace
    |Delete|Tab|float32|same|valid|softmax|chapterflow|data/|embedded|gcn-node|ms|px|[A-Za-zÂ]
"""


def test_translations_contain_no_english_but_names() -> None:
    for message, translation in catalogue(Language.ko).items():
        plain = re.sub(r"`[^`]*`|{[^}]*}|--\w+", " ", translation)
        plain = re.sub(rf"(?<![A-Za-z])(?:{NAMES})(?![A-Za-z])", " ", plain, flags=re.VERBOSE)
        assert re.findall("[A-Za-z]+", plain) == [], message


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        (None, {}, "en"),
        (None, {"LANG": "ko_KR.UTF-8"}, "ko"),
        (None, {"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        (None, {"LANG": "ko_KR.UTF-8", "LC_ALL": ""}, "ko"),
        (None, {"LANG": "ko_KR.UTF-8", "CHAPTERFLOW_LANG": "en"}, "en"),
        ("ko", {"CHAPTERFLOW_LANG": "en"}, "ko"),
        ("en", {"CHAPTERFLOW_LANG": "ko"}, "en"),
    ],
)
def test_the_option_then_the_variable_then_the_locale_choose(
    option: str | None,
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (VARIABLE, *LOCALE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("chapterflow.language._chosen", None)
    choose_language(Language(option) if option else None)
    assert language() == expected
    assert tr("model") == {"en": "model", "ko": "모델"}[expected]


def test_a_language_without_messages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fr")
    monkeypatch.setattr("chapterflow.language._chosen", None)
    with pytest.raises(ConfigError, match=r"must be en or ko\. Received: 'fr'"):
        choose_language(None)


@pytest.mark.parametrize("count", [0, 1, 2, 1234])
def test_a_message_about_a_number_has_the_form_of_the_number(count: int) -> None:
    forms = "{count} parameter", "{count} parameters"
    assert trn(*forms, count=count) == f"{count:,} parameter{'' if count == 1 else 's'}"
    with speaking(Language.ko):
        assert (
            trn("{count} parameter", "{count} parameters", count=count) == f"매개변수 {count:,}개"
        )


def test_a_page_in_another_language_is_written_again(tmp_path: Path) -> None:
    from pipelines.chapter import _shows

    page = tmp_path / "index.html"
    page.write_text('<html lang="en">0123456789abcdef')
    run = Outcome(model="cnn", dataset="digits", status="reused", run_id="0123456789abcdef")
    assert _shows(page, [run])
    with speaking(Language.ko):
        assert not _shows(page, [run])
