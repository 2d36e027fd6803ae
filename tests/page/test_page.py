"""The page: every number is there and traceable, and what is missing is told, not invented."""

import base64
import html
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow import files
from chapterflow.config.settings import QuestionParams
from chapterflow.explain.canvas import GREY, Canvas
from chapterflow.language import Language, recorded, speaking
from chapterflow.page.material import Entry, Material
from chapterflow.page.model_section import hardest, model_section
from chapterflow.page.parts import Album, Cell, Table, as_image
from chapterflow.page.plots import Point, pareto_front
from chapterflow.page.questions_section import questions
from chapterflow.page.report import render, write
from chapterflow.page.results_section import groups
from chapterflow.page.side_by_side_section import probes
from chapterflow.page.svg import Pen, figure, plain_ticks
from tests.page import page_runs


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return page_runs.make_material(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(material: Material) -> str:
    return render(material)


@pytest.fixture
def fresh(tmp_path: Path) -> Material:
    return page_runs.make_material(tmp_path)


def only(material: Material, model: str) -> Material:
    """Return what the page of one model is made from; a page takes as long as its models."""
    entries = [entry for entry in material.entries if entry.facts.model == model]
    return replace(material, entries=entries, differences=[])


def test_a_question_without_a_run_is_no_card_and_names_the_command(material: Material) -> None:
    question = QuestionParams(title="Deeper?", model="vgg", against="cnn")
    page = render(replace(only(material, "cnn"), questions={"deeper": question}))
    assert '<article class="card"' not in page
    assert "<strong>Deeper?</strong>" in page
    assert "<code>chapterflow run cnn vgg</code> makes them." in page


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_every_model_has_its_score_interval_and_lineage(material: Material, page: str) -> None:
    text = text_of(page)
    for entry in material.entries:
        m = entry.facts.metrics
        assert f"{m['test/accuracy']:.4f}" in text
        assert f"{m['test/accuracy_low']:.3f} to {m['test/accuracy_high']:.3f}" in text
        assert f'title="{entry.facts.run_id}"' in page
        assert entry.facts.run_id[:10] in text
        assert entry.facts.tags["chapterflow.fingerprint"][:10] in text
    assert material.entries[0].facts.tags["chapterflow.dataset_digest"][:10] in text
    assert "6e5cca3bbe + changes" in text
    assert "3277d0195f" in text


def test_a_real_difference_is_named_and_luck_is_not(material: Material, page: str) -> None:
    real = {p.verdict for p in material.differences if {p.a, p.b} == {"dnn", "cnn"}}
    assert real == {"b better"}
    text = text_of(page)
    assert "cnn over dnn" in text
    assert "cnn over lenet5" not in text
    assert "lenet5 over cnn" not in text


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    outside = [a for a in addresses if not a.startswith(("#", "data:"))]
    assert outside == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "@@picture" not in page


def test_ids_are_unique_and_links_on_the_page_lead_somewhere(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)


def test_text_of_plots_stays_text_and_follows_the_page(page: str) -> None:
    svg = next(s for s in re.findall(r"<svg.*?</svg>", page, re.S) if "training time" in s)
    assert re.search(r">\s*lenet5\s*</text>", svg)
    assert 'role="img"' in svg
    assert "On the Pareto front" in svg
    assert {"var(--c2)", "var(--ink)", "var(--dim)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", svg)


def test_what_others_wrote_cannot_become_markup(fresh: Material) -> None:
    card = fresh.entries[0].facts.folder / "dataset.json"
    changed = json.loads(card.read_text()) | {"title": "<script>alert(1)</script> & more"}
    card.write_text(json.dumps(changed))
    entries = [Entry(replace_label(e, 'x" onload="1'), e.data) for e in fresh.entries[:1]]
    page = render(replace(fresh, entries=entries, differences=[]))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    names: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda _, given: names.extend(name for name, _ in given)  # type: ignore[method-assign]
    reader.feed(page)
    assert "aria-label" in names
    assert "onload" not in names


def replace_label(entry: Entry, label: str) -> Any:
    return entry.facts.model_copy(update={"label": label})


def test_names_with_dollars_are_names_not_mathematics(fresh: Material) -> None:
    entries = [Entry(replace_label(e, f"{e.label} $\\nothing$"), e.data) for e in fresh.entries]
    page = render(replace(fresh, entries=entries[:2], differences=[]))
    assert page.count("dnn $\\nothing$</text>") >= 3


def test_examples_of_other_data_are_not_shown_as_those_of_the_run(fresh: Material) -> None:
    path = fresh.entries[0].data / "digits" / "dataset.json"
    changed = json.loads(path.read_text()) | {"title": "changed since"}
    path.write_text(json.dumps(changed))
    page = render(replace(fresh, entries=fresh.entries[:1], differences=[]))
    assert "The pictures are left out" in page
    assert "Thumbnails and class balance are left out" in page
    assert "<img" not in page
    assert "Hardest examples of dnn" in page


def test_a_run_without_artifacts_still_has_its_scores(fresh: Material) -> None:
    for path in fresh.entries[0].facts.folder.rglob("*.*"):
        path.unlink()
    page = render(replace(fresh, entries=fresh.entries[:1], differences=[]))
    assert f"{fresh.entries[0].facts.metrics['test/accuracy']:.4f}" in page
    assert "This run has no pictures of the model" in page


def test_the_hardest_example_comes_first_and_says_what_was_answered(material: Material) -> None:
    entry = material.entries[0]
    actual = entry.predictions
    given = actual["probability"][np.arange(len(actual["label"])), actual["label"]]
    place = int(given.argmin())
    result = hardest(entry, Album(), Pen())
    assert result is not None
    answer = actual["probability"][place].argmax()
    assert result.tiles[0].alt.startswith(
        f"Test example {actual['index'][place]}: {actual['label'][place]}, answered {answer}, "
    )
    wrong = int((actual["probability"].argmax(axis=1) != actual["label"]).sum())
    assert f"{wrong} of 80 answers are wrong" in result.lead


def test_the_same_examples_are_put_to_all_models(material: Material) -> None:
    first, differing, hard = probes(material.entries, Album())
    assert [row[0].text for row in differing.table.rows] == ["dnn", "cnn", "lenet5"]
    assert "the first of the test split" in first.table.caption
    each = np.stack([e.predictions["probability"] for e in material.entries])
    labels = material.entries[0].predictions["label"]
    true = each[:, np.arange(len(labels)), labels]
    place = int(true.mean(axis=0).argmin())
    assert [row[3].sort for row in hard.table.rows] == pytest.approx(true[:, place].tolist())
    assert probes(material.entries[:1], Album()) == []


def test_explanations_are_shown_once_with_their_scores(fresh: Material) -> None:
    material = replace(fresh, entries=fresh.entries[:2], differences=[])
    for entry in material.entries:
        page_runs.explain(entry.facts)
    page = render(material)
    assert page.count('alt="walk of dnn"') == 1
    assert "A walk through the feature maps" in page
    assert page.count('alt="attributions of cnn"') == 1
    assert page.count("Can the attributions of") == 2
    assert page.count("does not beat random orders") == 2
    assert "0.654" in page
    assert "This run has no pictures" not in page


def test_the_layers_of_a_model_are_a_strip_from_input_to_output(fresh: Material) -> None:
    page_runs.explain(fresh.entries[0].facts)
    layers = model_section(fresh.entries[0], 10, Album(), Pen()).layers
    facts = [(layer.kind, layer.shape, layer.parameters) for layer in layers]
    assert facts == [
        ("InputLayer", "8 × 8 × 1", 0), ("Conv2D", "8 × 8 × 32", 320),
        ("Flatten", "2048", 0), ("Dense", "10", 20_490),
    ]  # fmt: skip
    assert layers[0].height == layers[1].height > layers[2].height
    assert layers[0].width < layers[1].width < layers[2].width
    page = render(replace(fresh, entries=fresh.entries[:1], differences=[]))
    strip = page.partition('<ol class="strip">')[2].partition("</ol>")[0]
    assert "Conv2D 8 × 8 × 32 320 parameters" in text_of(strip)


def test_text_of_a_picture_is_apart_from_its_tiles(tmp_path: Path) -> None:
    canvas = Canvas(200, 120)
    canvas.tile((20, 20, 64, 64), np.full((8, 8, 3), (10, 200, 30), np.uint8))
    canvas.text(100, 40, "grey", color=GREY, size=20)
    canvas.save(tmp_path / "a.png")
    album = Album()
    picture = album.picture(tmp_path / "a.png", "a", "b")
    page = album.fill(f"{picture.src} {picture.ink}")
    tiles, ink = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))
        for address in page.split()
    )
    # The paper is transparent, so the page's own shows in light and in dark mode.
    assert (tiles[20:84, 20:84, 3] == 255).all()
    assert (tiles[..., 3] == 255).sum() == 64 * 64
    np.testing.assert_allclose(tiles[50, 50, :3], (10, 200, 30), atol=8)
    assert not ink[20:84, 20:84, 3].any()
    assert ink[..., 3].max() == pytest.approx(255 - int(GREY[1:3], 16), abs=2)
    # Both layers together on white are the picture.
    together = np.full((120, 200, 3), 255.0)
    for layer in (tiles, ink):
        share = layer[..., 3:] / 255
        together = together * (1 - share) + layer[..., :3] * share
    whole = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), float)
    assert np.abs(together - whole).mean() < 1


def test_a_list_of_pictures_cannot_name_files_elsewhere(fresh: Material) -> None:
    facts = fresh.entries[0].facts
    page_runs.explain(facts, ["walk"])
    secret = facts.folder / "secret.png"
    (facts.folder / "explain" / "walk.png").rename(secret)
    listed = facts.folder / "explain" / "explain.json"
    listed.write_text(listed.read_text().replace("walk.png", "../secret.png"))
    assert fresh.entries[0].explanation.pictures == []


def test_pictures_lose_quality_before_the_page_grows_too_large(fresh: Material) -> None:
    page_runs.explain(fresh.entries[0].facts, ["walk"], side=1200)
    alone = replace(fresh, entries=fresh.entries[:1], differences=[])
    full = render(alone)
    assert len(full.encode()) > 1_000_000
    small = render(alone, limit=1_000_000)
    assert len(small.encode()) < 1_000_000
    assert small.count("<img") == full.count("<img")


def test_many_classes_give_their_confusions_not_a_matrix(fresh: Material) -> None:
    facts = fresh.entries[0].facts
    card = facts.folder / "dataset.json"
    names = [f"class {n}" for n in range(30)]
    card.write_text(json.dumps(json.loads(card.read_text()) | {"classes": names}))
    counts = np.diag(np.full(30, 9))
    counts[3, 7], counts[20, 21] = 2, 5
    (facts.folder / "evaluation.json").write_text(json.dumps({"confusion": counts.tolist()}))
    table = model_section(fresh.entries[0], 10, Album(), Pen()).confusion
    assert table is not None
    told = [[cell.text for cell in row] for row in table.rows]
    assert told == [["class 20", "class 21", "5"], ["class 3", "class 7", "2"]]


def test_a_volume_is_shown_by_its_three_middle_slices() -> None:
    volume = np.zeros((4, 6, 8, 1), np.uint8)
    volume[2, ..., 0] = 10
    volume[:, 3, :, 0] = 20
    volume[:, :, 4, 0] = 40
    image = as_image(volume, 40)
    assert image.shape == (6, 8 + 1 + 8 + 1 + 6)
    assert image[0, 0] == 63  # the slice across the depth
    assert image[0, 9] == 127  # across the height
    assert image[0, 18] == 255  # across the width


@pytest.mark.parametrize(
    ("points", "higher", "front"),
    [
        ([("a", 1, 0.9), ("b", 2, 0.8)], True, "a"),
        ([("a", 1, 0.8), ("b", 2, 0.9)], True, "ab"),
        ([("a", 1, 0.8), ("b", 1, 0.9)], True, "b"),
        ([("a", 1, 0.9), ("b", 2, 0.9)], True, "a"),
        ([("a", 1, 0.9), ("b", 1, 0.9)], True, "ab"),
        ([("a", 1, 0.9), ("b", 2, 0.8)], False, "ab"),
        ([("a", 3, 0.7), ("b", 2, 0.6), ("c", 1, 0.5)], True, "abc"),
    ],
)
def test_pareto_front(points: Any, higher: bool, front: str) -> None:
    made = [Point(name, cost, score, score, score) for name, cost, score in points]
    actual = pareto_front(made, higher_is_better=higher)
    assert {point.label for point in actual} == set(front)
    assert [p.cost for p in actual] == sorted(p.cost for p in actual)


@pytest.mark.parametrize(
    ("low", "high"), [(0.008, 0.75), (5.5, 20.5), (9000, 210_000), (0.38, 2.3), (0.9, 9e6)]
)
def test_an_axis_of_logarithms_has_several_plain_ticks(low: float, high: float) -> None:
    drawn = figure(3, 2)
    axes = drawn.subplots()
    axes.set(xscale="log", xlim=(low, high))
    plain_ticks(axes.xaxis, low, high)
    drawn.draw_without_rendering()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 9
    assert not any("$" in label.get_text() for label in axes.get_xticklabels())


def test_questions_say_which_runs_they_lack(material: Material) -> None:
    asked = {question.anchor: question for question in questions(material, Album())}
    assert asked["question-dnn-cnn"].table is not None
    assert asked["question-transfer"].table is None
    assert asked["question-transfer"].bars == []
    assert "`chapterflow run transfer`" in asked["question-transfer"].verdict
    assert "`chapterflow run gcn`" in asked["question-readout"].verdict
    assert "`chapterflow run conv1d`" in asked["question-filter"].verdict


def test_models_of_different_test_sets_are_not_set_against_each_other(material: Material) -> None:
    moved = material.entries[1].facts
    moved = moved.model_copy(update={"tags": moved.tags | {"chapterflow.test_digest": "other"}})
    entries = [material.entries[0], Entry(moved, material.entries[1].data)]
    asked = questions(replace(material, entries=entries, differences=[]), Album())[0]
    assert asked.table is None


def test_the_questions_are_the_first_on_the_page(page: str) -> None:
    order = ["questions", "question-dnn-cnn", "results", "side-by-side", "models", "data"]
    places = [page.index(f'id="{anchor}"') for anchor in [*order, "lineage"]]
    assert places == sorted(places)
    assert page.index("Git commit" if "Git commit" in page else "Written (UTC)") > places[-1]


@pytest.mark.parametrize("swapped", [False, True])
def test_dense_or_convolution_counts_from_the_dense_network(
    material: Material, swapped: bool
) -> None:
    pair = next(p for p in material.differences if {p.a, p.b} == {"dnn", "cnn"})
    only = pair.only_b, pair.only_a
    if swapped:
        pair = pair.model_copy(
            update={
                "a": pair.b, "b": pair.a, "accuracy_difference": -pair.accuracy_difference,
                "low": -pair.high, "high": -pair.low, "verdict": "a better",
                "only_a": pair.only_b, "only_b": pair.only_a,
            }
        )  # fmt: skip
    card = questions(replace(material, differences=[pair]), Album())[0]
    dnn, cnn = (entry.facts.metrics["test/accuracy"] for entry in material.entries[:2])
    assert card.verdict == (
        f"cnn beats dnn: {cnn * 100:.1f} % against {dnn * 100:.1f} % of 80 test examples right."
    )
    assert f"cnn alone is right on {only[0]} examples, dnn alone on {only[1]}" in card.why
    assert [bar.label for bar in card.bars] == ["dnn", "cnn"]
    assert card.bars[0].length / card.bars[1].length == pytest.approx((1 - dnn) / (1 - cnn))
    assert card.bars[0].high == 1.0  # the longest whisker fills the card
    assert all(bar.low < bar.length < bar.high for bar in card.bars if bar.low and bar.high)


def test_luck_is_explained_in_a_sentence(material: Material) -> None:
    pair = next(p for p in material.differences if {p.a, p.b} == {"dnn", "cnn"})
    others = [p for p in material.differences if p is not pair]

    def why(**changed: Any) -> tuple[str, str]:
        other = pair.model_copy(update=changed)
        card = questions(replace(material, differences=[other, *others]), Album())[0]
        return card.verdict, card.why

    # The interval leaves 0 out, and yet many pairs were compared.
    verdict, reason = why(low=0.002, high=0.031, p_value=0.02, p_adjusted=0.06)
    assert verdict.endswith("but that may be luck.")
    assert "As the only pair it would count (p = 0.02), but 3 pairs" in reason
    assert "+0.2 to +3.1 points, is of this pair alone" in reason
    verdict, reason = why(low=-0.01, high=0.031, p_value=0.125, p_adjusted=1.0)
    assert "luck splits them so unevenly with a probability of 0.12." in reason
    assert "of this pair alone" not in reason
    verdict, reason = why(only_a=0, only_b=0, low=0.0, high=0.0, p_value=1.0, p_adjusted=1.0)
    assert "are level" in verdict
    assert "No example is right for one of them alone." in reason


def test_a_card_shows_what_only_one_model_gets_right(material: Material) -> None:
    card = questions(material, Album())[0]
    pair = next(p for p in material.differences if {p.a, p.b} == {"dnn", "cnn"})
    headings = [heading for heading, _ in card.examples]
    assert headings[0] == f"Only cnn is right ({pair.only_b})"
    assert len(card.examples[0][1]) == min(6, pair.only_b)
    assert re.fullmatch(r"\d, not \d", card.examples[0][1][0].caption)


def test_variants_answer_the_other_questions(fresh: Material, tmp_path: Path) -> None:
    dataset = page_runs.make_data(tmp_path / "again")
    variants = {
        "googlenet": {"beside/without_1x1/parameters": 96100.0, "beside/without_1x1/flops": 1e6},
        "transfer": {
            "beside/from_scratch/accuracy": 0.2, "beside/from_scratch/accuracy_low": 0.1,
            "beside/from_scratch/accuracy_high": 0.3, "beside/from_scratch/train_seconds": 100.0,
        },
        "gcn": {
            "beside/readout_sum/accuracy": 1.0, "beside/readout_sum/accuracy_low": 0.99,
            "beside/readout_sum/accuracy_high": 1.0, "beside/structure_blind/accuracy": 0.5,
        },
    }  # fmt: skip
    facts = [
        page_runs.make_run(dataset, tmp_path / "more", name, wrong=0.4, more=more)
        for name, more in variants.items()
    ]
    entries = [Entry(fact, fresh.entries[0].data) for fact in facts]
    asked = questions(replace(fresh, entries=entries), Album())
    cards = {card.anchor.removeprefix("question-"): card for card in asked}
    ratio = 96100.0 / facts[0].metrics["cost/parameters"]
    assert f"it would have 96,100, {ratio:.1f} times as many" in cards["1x1"].verdict
    assert "was not trained" in cards["1x1"].why
    assert [bar.length for bar in cards["1x1"].bars] == pytest.approx([1 / ratio, 1])
    own = facts[1].metrics["test/accuracy"]
    assert f"transfer gets {own * 100:.1f} % of 80 test examples right; from scratch 20.0 % " in (
        cards["transfer"].verdict
    )
    assert "(clearly worse)" in cards["transfer"].verdict
    assert "readout sum 100.0 % (clearly better)" in cards["readout"].verdict
    # It has no interval, so nothing is claimed.
    assert "structure blind 50.0 % (may be luck)" in cards["structure"].verdict


def test_filters_answer_for_curves(fresh: Material, tmp_path: Path) -> None:
    facts = page_runs.make_run(page_runs.make_data(tmp_path / "again"), tmp_path / "more", "conv1d")
    metrics = {
        "test/examples": 600.0, "test/rmse": 0.05, "test/rmse_low": 0.04, "test/rmse_high": 0.06,
        "baseline/savitzky_golay/rmse": 0.12, "baseline/moving_average/rmse": 0.15,
    }  # fmt: skip
    entry = Entry(facts.model_copy(update={"metrics": metrics}), tmp_path)
    card = questions(replace(fresh, entries=[entry], differences=[]), Album())[-1]
    assert card.verdict == (
        "conv1d leaves an error (RMSE) of 0.050 on 600 test curves; the Savitzky-Golay filter "
        "leaves 0.120, 2.4 times as much; the moving average leaves 0.150, 3.0 times as much."
    )
    assert [bar.length for bar in card.bars] == pytest.approx([1 / 3, 0.8, 1])
    assert card.bars[0].low == pytest.approx(0.04 / 0.15)
    assert card.bars[1].low is None


def test_a_model_with_folds_has_their_mean_as_its_score(fresh: Material, tmp_path: Path) -> None:
    folds = {
        "cv/inner/accuracy_mean": 0.755, "cv/inner/accuracy_std": 0.1,
        "beside/structure_blind/accuracy": 0.5,
        "beside/structure_blind/cv_inner_accuracy_mean": 0.777,
        "beside/structure_blind/cv_inner_accuracy_std": 0.08,
    }  # fmt: skip
    dataset = page_runs.make_data(tmp_path / "again")
    facts = page_runs.make_run(dataset, tmp_path / "more", "gcn", wrong=0.4, more=folds)
    alone = replace(fresh, entries=[Entry(facts, fresh.entries[0].data)], differences=[])
    (group,) = groups(alone, Pen())
    assert "0.7550" in group.lead
    assert "mean and deviation over the folds" in group.lead
    assert [cell.text for cell in group.table.rows[0][1:3]] == ["0.7550", "0.655 to 0.855"]
    card = next(c for c in questions(alone, Album()) if c.anchor == "question-structure")
    assert card.verdict == (
        "gcn gets 75.5 % of the examples of all folds right; structure blind 77.7 % (may be luck)."
    )
    assert "over the folds" in card.why


def test_any_model_can_take_part_in_a_question(material: Material) -> None:
    asked = {
        "mine": QuestionParams(title="Old or new?", model="lenet5", against="cnn"),
        "none": QuestionParams(title="Deeper?", model="cnn", variants=["deep"]),
    }
    mine, none = questions(replace(material, questions=asked), Album())
    assert mine.title == "Old or new?"
    assert mine.table is not None
    assert mine.table.headings[1:3] == ["cnn", "lenet5"]
    assert "may be luck" in mine.verdict
    assert "lenet5 has 1.5 times the parameters of cnn" in mine.why
    assert none.table is None
    assert "`chapterflow run cnn`" in none.verdict
    assert "`deep…`" in none.verdict
    assert 'href="#questions"' not in render(replace(only(material, "cnn"), questions={}))


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Exception, match=r"must have 2 cells\. Received: 1"):
        Table("numbers", ["a", "b"], [[Cell("1")]])


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("first", tmp_path / "report")
    assert path == tmp_path / "report" / "index.html"

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write("second", tmp_path / "report")
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


#: English on a Korean page: names of models, layers, measures and tools, units, and what the
#: artifacts of this test say.
NAMES = r"""
    chapterflow|embedded|dnn|cnn|lenet|digits|RMSE|AUC|MFLOPs|MLflow|Prefect|UTC|Wilson|Data\ Docs
    |data/|git|Git|ms|InputLayer|Conv2D|Flatten|Dense|pixels|conv|flat|logits
    |trained\ on|a\ wrong\ label|label-set|(?:in\ )?0\ to\ 9|(?:walk|attributions)\ of|grad-cam
    |test|none
"""


def test_a_korean_page_has_no_english_but_names(fresh: Material) -> None:
    page_runs.explain(fresh.entries[0].facts)
    with speaking(Language.ko):
        page = render(replace(fresh, entries=fresh.entries[:2], facts={}))
    assert '<html lang="ko">' in page
    plain = re.sub(r"<(style|script|code).*?</\1>", " ", page, flags=re.DOTALL)
    attributes = re.findall(r' (?:alt|aria-label|title|data-label)="([^"]*)"', plain)
    shown = html.unescape(" ".join([re.sub(r"<[^>]+>", " ", plain), *attributes]))
    assert "이 페이지에는 이 질문에 답할 실행이 없습니다" in shown
    assert "cnn의 정확도가 dnn보다 높습니다" in shown
    plain = re.sub("`[^`]*`", "", shown)
    plain = re.sub(rf"\b(?:{NAMES})(?![A-Za-z])", "", plain, flags=re.VERBOSE)
    assert set(re.findall(r"(?<!\w)[A-Za-z]{2,}(?![\w])", plain)) == set()


def test_what_runs_recorded_is_translated_with_its_values() -> None:
    sentences = {
        "Every volume has different voxels: equal voxels come from a damaged file or a decoding "
        "error.": "입체마다 복셀의 값이 다양합니다. 모든 복셀이 같으면 파일이 손상됐거나 디코딩이 "
        "잘못된 것입니다.",
        "cnn: two convolutions with max pooling. Book chapter 5, “DNN and CNN on MNIST”. Trained "
        "on mine: My own data.": "cnn: 합성곱층 두 개와 최대 풀링층. 책 5장 “MNIST로 배우는 DNN과 "
        "CNN”. mine 데이터로 학습: My own data.",
        "My own data, 0 to 9": "My own data, 0 to 9",
    }
    for english, korean in sentences.items():
        assert recorded(english) == english
        with speaking(Language.ko):
            assert recorded(english) == korean
