"""Variants of a model: same data, same seed, other parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ModelParams, Variant
from chapterflow.models.catalog import get_model
from tests.digits import digits_dataset

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three hundred of scikit-learn's digits."""
    return digits_dataset(np.random.default_rng(5).choice([0, 0, 1, 2], 300))


def params_with(**beside: dict[str, Any]) -> ModelParams:
    variants = {name: Variant(**variant) for name, variant in beside.items()}
    params: ModelParams = get_model("dnn").params(
        role="digits", epochs=3, learning_rate=0.01, hidden=16, beside=variants, folds=3
    )
    return params


def test_a_variant_is_trained_and_scored_and_another_only_counted(
    dataset: Dataset, tmp_path: Path
) -> None:
    from chapterflow.evaluation.variants import score_variants

    params = params_with(
        narrow={"change": {"hidden": 8}}, wide={"change": {"hidden": 64}, "train": False}
    )
    result: list[str] = []
    actual = score_variants(
        get_model("dnn"), params, dataset, seed=5, work=tmp_path, tell=result.append
    )
    assert result == ["narrow", "wide"]
    assert set(actual) == {
        "beside/narrow/accuracy",
        "beside/narrow/accuracy_low",
        "beside/narrow/accuracy_high",
        "beside/narrow/train_seconds",
        "beside/narrow/parameters",
        "beside/narrow/flops",
        "beside/wide/parameters",
        "beside/wide/flops",
    }
    assert actual["beside/narrow/parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert actual["beside/wide/parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    assert actual["beside/wide/flops"] > actual["beside/narrow/flops"]
    assert actual["beside/narrow/accuracy"] > 0.2


@pytest.mark.slow
def test_a_variant_equals_the_model_with_its_parameters(dataset: Dataset, tmp_path: Path) -> None:
    import keras

    from chapterflow.evaluation.variants import score_variants
    from chapterflow.training.fit import fit

    entry = get_model("dnn")
    score_variants(
        entry,
        params_with(narrow={"change": {"hidden": 8}}),
        dataset,
        seed=5,
        work=tmp_path / "beside it",
    )
    alone = params_with().model_copy(update={"hidden": 8})
    fit(entry, alone, dataset, seed=5, work=tmp_path / "alone")
    models = [
        keras.saving.load_model(folder / "model.keras", compile=False)
        for folder in (tmp_path / "beside it" / "beside" / "narrow", tmp_path / "alone")
    ]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_variants_have_no_variants() -> None:
    params = params_with(narrow={"change": {"hidden": 8}})
    expected = params.model_dump() | {"hidden": 8, "beside": {}, "folds": 0}
    assert params.variant("narrow").model_dump() == expected
