"""The contract of a chapter model: a class of parameters and a build function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field

from chapterflow.types import Fraction, PositiveInt, Strict

if TYPE_CHECKING:
    import keras


class Variant(Strict):
    """A variant that a run sets beside its model: the same data, seed and code, other parameters.

    Attributes:
        change: Parameters that differ from the model's.
        train: Whether to train and score it; without it only its cost is reported.
    """

    change: dict[str, Any]
    train: bool = True


class ModelParams(Strict):
    """Parameters that every chapter model has; each model adds its own.

    A model that reads more than its role's dataset overrides `roles`.

    Attributes:
        role: Role whose dataset the model learns.
        epochs: Upper bound on passes over the training split.
        batch_size: Examples per gradient step.
        learning_rate: Peak learning rate of Adam (Kingma & Ba 2015).
        schedule: `constant`, or `cosine`: linear warm-up, then cosine decay to zero
            (Loshchilov & Hutter 2017).
        warmup: Share of all steps spent warming up (`cosine` only).
        beside: Variants of this model that are trained and scored beside it, by name.
        folds: Folds of a cross-validation beside the fixed split; 0 for none.
        patience: Epochs without a better validation loss before training stops; null never stops.
        steps_per_execution: Gradient steps per call into TensorFlow; more is faster.
    """

    role: str
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 32
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Fraction = 0.1
    patience: PositiveInt | None = None
    steps_per_execution: PositiveInt = 16
    beside: dict[str, Variant] = Field(default_factory=dict)
    folds: Annotated[int, Field(ge=0, le=50)] = 0

    def roles(self) -> tuple[str, ...]:
        """Return the roles whose datasets the model reads, its own first."""
        return (self.role,)

    def files(self) -> tuple[str, ...]:
        """Return paths of files or folders whose content decides what is learnt."""
        return ()

    def all_epochs(self) -> int:
        """Return the upper bound on epochs over all parts of the training."""
        return self.epochs

    def variant(self, name: str) -> Self:
        """Return the parameters of a variant in `beside`; it has no variants of its own.

        Raises:
            ValidationError: If the change names unknown parameters or wrong values.
        """
        own = self.model_dump() | {"beside": {}, "folds": 0}
        return type(self).model_validate(own | self.beside[name].change)


@dataclass(frozen=True)
class InputSpec:
    """What a model is built for.

    Attributes:
        shape: Shape of one example, without the batch axis: `(height, width, channels)` for
            images; None where it varies.
        classes: Number of classes; 0 where the target is not a class.
        value_max: Largest raw value (255 for 8-bit pixels); the model rescales by it.
        kind: Name of the kind of data (`chapterflow.kinds`).
        centre: Mean of each feature in the training data, where features have scales of their own.
        spread: Standard deviation of each, as long as `centre`.
    """

    shape: tuple[int | None, ...]
    classes: int
    value_max: float
    kind: str = "images"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()


P = TypeVar("P", bound=ModelParams)


@dataclass(frozen=True)
class ChapterModel(Generic[P]):
    """One model of the chapter, or one of your own.

    Attributes:
        name: Name in `params.yaml`, on the command line and in the model registry.
        params: Class of its parameters.
        build: Builds the uncompiled Keras model: raw values in, logits out. Takes the parameters
            and an `InputSpec`. A softmax over the last axis turns the logits into probabilities.
        section: Title of the book's section, in chapter 5; empty for models that it has not.
        summary: One line that says what it is.
        size: Height and width to which photos are decoded; None decodes them to 224x224. The model
            resizes what comes in another size itself.
        frozen: Builds the part that is not trained, raw values -> features, so that its features
            are computed once and kept; it returns None where the parameters freeze nothing.
        head: Builds what is trained on the features; `build` gives both together.
    """

    name: str
    params: type[P]
    build: Callable[[P, InputSpec], keras.Model]
    section: str = ""
    summary: str = ""
    size: Callable[[P], tuple[int, int]] | None = None
    frozen: Callable[[P, InputSpec], keras.Model | None] | None = None
    head: Callable[[P, InputSpec], keras.Model] | None = None


def with_softmax(model: keras.Model) -> keras.Model:
    """Return a model that answers probabilities instead of logits, sharing the weights.

    Chapter models end in logits because softmax and cross-entropy are computed together, which is
    numerically stable (Goodfellow et al. 2016, section 6.2.2.3). For serving:
    `with_softmax(mlflow.keras.load_model("models:/cnn/1"))`.

    Args:
        model: Model of output shape `(batch, classes)` and any inputs.
    """
    import keras

    outputs: Any = keras.layers.Softmax(name="probabilities")(model.output)
    return keras.Model(model.input, outputs, name=f"{model.name}_softmax")
