"""The interface of a chapter model: a parameter class and a build function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from chapterflow.types import Fraction, InputSpec, PositiveInt, Strict

if TYPE_CHECKING:
    import keras

#: A model file imports all of these from here.
__all__ = ["ChapterModel", "InputSpec", "ModelParams", "Variant", "with_softmax"]


class Variant(Strict):
    """A variant that a run compares with its model: same data, seed and code, other parameters.

    Attributes:
        change: Parameters that differ from the model's.
        train: Whether to train and score the variant; if false, only its cost is reported.
    """

    change: dict[str, Any]
    train: bool = True


#: The book's recipe: five epochs of Adam at its default rate.
BOOK: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "beta_2": 0.999,
    "label_smoothing": 0.0,
    "patience": None,
    "precision": "float32",
}


class ModelParams(Strict):
    """Parameters shared by all chapter models; each model adds its own.

    A model that reads more datasets than its role's overrides `roles`.

    Attributes:
        role: Role of the dataset that the model learns from.
        epochs: Maximum number of passes over the training split.
        batch_size: Examples per gradient step.
        learning_rate: Peak learning rate of Adam (Kingma & Ba 2015).
        schedule: `constant`, or `cosine`: linear warm-up, then cosine decay to zero
            (Loshchilov & Hutter 2017).
        warmup: Fraction of all steps used for warm-up (`cosine` only).
        beta_2: Decay of Adam's mean of squared gradients. 0.99 forgets the large gradients of the
            first steps in time for trainings of fewer than about 1,000 steps.
        label_smoothing: Share of the targets that is spread evenly over all classes (Szegedy et al.
            2016, "Rethinking the Inception architecture"), in the training loss only. Confidences
            drop by about this share and more.
        beside: Variants to train and score along with this model, by name.
        folds: Folds of a cross-validation in addition to the fixed split; 0 for none.
        patience: Epochs without a better validation loss before training stops; null disables
            early stopping.
        steps_per_execution: Maximum number of gradient steps per call into TensorFlow; null takes
            as many as half a second allows.
        precision: `bfloat16` trains with multiplications in bfloat16 and weights in float32, where
            the processor has instructions for it; elsewhere in float32. Large convolutions gain
            most.
        recipe: `book` trains as the book does, whatever the parameters of `BOOK` are set to.
        class_weight: `balanced` weights the loss of each example, in training and in the
            validation that early stopping watches, by the inverse frequency of its class in the
            train split (King & Zeng 2001), so that a rare class counts as much as a frequent one.
    """

    role: str
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 32
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Fraction = 0.1
    beta_2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    label_smoothing: Fraction = 0.0
    patience: PositiveInt | None = None
    steps_per_execution: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Literal["fast", "book"] = "fast"
    class_weight: Literal["none", "balanced"] = "none"
    beside: dict[str, Variant] = Field(default_factory=dict)
    folds: Annotated[int, Field(ge=0, le=50)] = 0

    @model_validator(mode="before")
    @classmethod
    def _book(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("recipe") == "book":
            return values | BOOK
        return values

    def roles(self) -> tuple[str, ...]:
        """Return the roles of the datasets that the model reads, its own role first."""
        return (self.role,)

    def files(self) -> tuple[str, ...]:
        """Return paths of files or folders whose content affects training."""
        return ()

    def all_epochs(self) -> int:
        """Return the maximum number of epochs over all phases of training."""
        return self.epochs

    def variant(self, name: str) -> Self:
        """Return the parameters of a variant in `beside`, without variants or folds.

        Raises:
            ValidationError: If the change has unknown parameters or invalid values.
        """
        own = self.model_dump() | {"beside": {}, "folds": 0}
        return type(self).model_validate(own | self.beside[name].change)


P = TypeVar("P", bound=ModelParams)


@dataclass(frozen=True)
class ChapterModel(Generic[P]):
    """A model of the chapter, or one that you add.

    Attributes:
        name: Name in `params.yaml`, on the command line and in the model registry.
        params: Parameter class.
        build: Builds the uncompiled Keras model, raw values -> logits, from the parameters and an
            `InputSpec`. A softmax over the last axis turns the logits into probabilities.
        section: Title of the section in chapter 5 of the book; empty if the book has none.
        summary: One-line description.
        size: Height and width to which photos are decoded; None decodes them to 224x224. The model
            itself resizes inputs of other sizes.
        frozen: Builds the frozen part, raw values -> features, so that the features are computed
            once and cached; returns None if the parameters freeze nothing.
        head: Builds the part that is trained on the features; `build` returns both together.
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
    """Return a model with the same weights that outputs probabilities instead of logits.

    Chapter models output logits because computing softmax and cross-entropy together is
    numerically stable (Goodfellow et al. 2016, section 6.2.2.3). For serving:
    `with_softmax(mlflow.keras.load_model("models:/cnn/1"))`.

    Args:
        model: Model with output shape `(batch, classes)` and any inputs.
    """
    import keras

    outputs: Any = keras.layers.Softmax(name="probabilities")(model.output)
    return keras.Model(model.input, outputs, name=f"{model.name}_softmax")
