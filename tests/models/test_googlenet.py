"""GoogLeNet is the paper's table, and its 1x1 reductions save what they are there to save."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from chapterflow.models.catalog import get_model
from chapterflow.models.googlenet import STAGES
from chapterflow.models.layers.convolution import Inception
from tests.models import images

pytestmark = pytest.mark.usefixtures("tensorflow")

#: Table 1 of the paper: module, its input and output, and the column `params` in thousands.
TABLE = [
    ("3a", (28, 192), (28, 256), 159),
    ("3b", (28, 256), (28, 480), 380),
    ("4a", (14, 480), (14, 512), 364),
    ("4b", (14, 512), (14, 512), 437),
    ("4c", (14, 512), (14, 512), 463),
    ("4d", (14, 512), (14, 528), 580),
    ("4e", (14, 528), (14, 832), 840),
    ("5a", (7, 832), (7, 832), 1072),
    ("5b", (7, 832), (7, 1024), 1388),
]
#: Rows whose published count is that of their filters, in units of 1,024. The others differ from
#: the filters that stand beside them in the paper, by up to 8 %.
EXACT = {"3a", "3b"}


def module_count(f: Inception, channels: int) -> int:
    """Count the weights and biases of a module by hand."""
    return (
        (channels + 1) * (f.one + f.reduce3 + f.reduce5 + f.pool)
        + (9 * f.reduce3 + 1) * f.three
        + (25 * f.reduce5 + 1) * f.five
    )


def count(model: Any, prefix: str) -> int:
    """Count the parameters of the layers whose names start with `prefix`."""
    return sum(layer.count_params() for layer in model.layers if layer.name.startswith(prefix))


def test_the_rows_of_the_papers_table(no_weights: None) -> None:
    model = images.build("googlenet", (224, 224, 3), classes=1000, configuration="googlenet")
    for name, read, made, thousands in TABLE:
        filters = STAGES["googlenet"][name[0]][name[1]]
        pooled = model.get_layer(f"inception{name}_pool")
        assert pooled.input.shape == (None, read[0], read[0], read[1])
        output = model.get_layer(f"inception{name}_concat").output
        assert output.shape == (None, made[0], made[0], made[1])
        exact = count(model, f"inception{name}_")
        assert exact == module_count(filters, read[1])
        assert filters.width == made[1]
        tolerance = 1 if name in EXACT else 0.08 * thousands
        assert abs(exact / 1024 - thousands) < tolerance, name
    # 2.7K in the table is not what a 7x7 convolution of three channels with 64 filters has.
    assert count(model, "conv1") == 7 * 7 * 3 * 64 + 64
    second = count(model, "conv2")
    assert second == 64 * 64 + 64 + 3 * 3 * 64 * 192 + 192
    assert second / 1024 == pytest.approx(112, abs=0.5)
    assert count(model, "logits") == 1024 * 1000 + 1000
    assert model.count_params() == 6_998_552
    sides = [model.get_layer(name).output.shape[1] for name in ("conv1", "pool1", "pool3")]
    assert sides == [112, 56, 28]
    assert model.get_layer("average").output.shape == (None, 1024)


@pytest.mark.parametrize(
    "configuration", ["small", pytest.param("googlenet", marks=pytest.mark.slow)]
)
def test_reductions_save_parameters_and_operations(configuration: str, no_weights: None) -> None:
    from chapterflow.evaluation.cost import flops

    shape = (224, 224, 3) if configuration == "googlenet" else (28, 28, 1)
    with_them = images.build("googlenet", shape, configuration=configuration)
    without = images.build("googlenet", shape, configuration=configuration, reductions=False)
    assert not any("reduce" in layer.name for layer in without.layers if "inc" in layer.name)
    for stage, modules in STAGES[configuration].items():
        for module in modules:
            name = f"inception{stage}{module}_concat"
            assert without.get_layer(name).output.shape == with_them.get_layer(name).output.shape
    assert without.count_params() > 2 * with_them.count_params()
    assert flops(without) > 2 * flops(with_them)


def test_a_module_without_reductions_by_hand() -> None:
    model = images.build("googlenet", (8, 8, 1), reductions=False, batch_normalisation=False)
    filters = STAGES["small"]["3"]["a"]
    assert count(model, "inception3a_") == (
        (16 + 1) * (filters.one + filters.pool)
        + (9 * 16 + 1) * filters.three
        + (25 * 16 + 1) * filters.five
    )


def test_branches_of_a_module() -> None:
    model = images.build("googlenet", (8, 8, 1))
    kernels = {"1x1": 1, "3x3_reduce": 1, "3x3": 3, "5x5_reduce": 1, "5x5": 5, "pool_proj": 1}
    for part, kernel in kernels.items():
        layer = model.get_layer(f"inception4a_{part}")
        assert layer.kernel_size == (kernel, kernel)
        assert layer.strides == (1, 1)
    pool = model.get_layer("inception4a_pool")
    assert pool.pool_size == (3, 3)
    assert pool.strides == (1, 1)
    names = [value.path.split("/")[0] for value in model.trainable_variables]
    assert names.count("inception4a_3x3_norm") == 2
    assert names.count("inception4a_3x3") == 1, "the normalisation's shift is the bias"


def test_global_average_pooling_forgets_where() -> None:
    """Feature maps turned upside down give the same logits: only their means count."""
    import keras

    model = images.build("googlenet", (16, 16, 1))
    tail = keras.Model(model.get_layer("average").input, model.output)
    maps = images.pixels(2, *model.get_layer("average").input.shape[1:])
    np.testing.assert_allclose(tail(maps), tail(maps[:, ::-1, ::-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"configuration": "v3"}, {"reductions": "no"}, {"dropout": -0.1}]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        get_model("googlenet").params(role="digits", **options)
