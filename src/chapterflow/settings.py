"""The settings: what `params.yaml` may say, as strict, frozen records."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from chapterflow.errors import ConfigError
from chapterflow.models.parts.base import ModelParams, PositiveInt, Strict

Profile = Literal["embedded", "book"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
#: Share of examples in a split that must not be empty.
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class SklearnDigits(Strict):
    """The 1,797 handwritten 8x8 digits that ship inside scikit-learn.

    Attributes:
        validation: Share of all examples for early stopping.
        test: Share of all examples held out for evaluation.
        seed: Seed of the splits.
    """

    kind: Literal["sklearn-digits"]
    seed: Seed
    validation: SplitShare
    test: SplitShare


class RemoteFile(Strict):
    """One file of a source.

    Attributes:
        name: File name below the source's folder or addresses.
        sha256: Hash of the decompressed bytes; null accepts whatever arrives.
        bytes: Size after decompression; null caps it at 4 GiB.
    """

    name: str
    sha256: Sha256 | None = None
    bytes: PositiveInt | None = None


class IdxFiles(Strict):
    """The four files of an IDX dataset."""

    train_images: RemoteFile
    train_labels: RemoteFile
    test_images: RemoteFile
    test_labels: RemoteFile


class Idx(Strict):
    """Grey images in the IDX format of MNIST, gzip or raw; its test files stay the test set.

    Attributes:
        mirror: Folder of these files below `CHAPTERFLOW_MIRROR`; null for data that no mirror
            holds, which come from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        validation: Share of the train files for early stopping.
        seed: Seed of the split into train and validation.
        classes: Number of classes; labels are 0 to classes - 1.
    """

    kind: Literal["idx"]
    seed: Seed
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    files: IdxFiles
    validation: SplitShare
    classes: PositiveInt = 10
    title: str = "IDX images"
    licence: str = "unknown"


DatasetParams = Annotated[SklearnDigits | Idx, Field(discriminator="kind")]
#: Values of `kind`, one for each class of the union.
KINDS = frozenset(
    get_args(source.model_fields["kind"].annotation)[0] for source in (SklearnDigits, Idx)
)


class ImageExpectations(Strict):
    """Bounds of the suite for images (see `chapterflow.validation.suite`).

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of examples that repeat another one, bit for bit.
        value_use: Smallest share of the value range that the brightest pixel of the dataset uses.
            Data that were already divided by 255 fall below it.
        mean_value: Lowest and highest plausible mean of all pixels, as shares of the range.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    value_use: Share
    mean_value: Annotated[list[Share], Field(min_length=2, max_length=2)]


class ValidationParams(Strict):
    """Bounds of the validation suites, by kind of data."""

    images: ImageExpectations


class TrackingParams(Strict):
    """Where MLflow files the runs.

    Attributes:
        experiment: Name of the MLflow experiment.
    """

    experiment: Annotated[str, Field(min_length=1)]


class EvaluationParams(Strict):
    """How the held-out split is scored.

    Attributes:
        calibration_bins: Bins of the expected calibration error.
        latency_batch: Images in a call of the batch latency.
        latency_repeats: Timed calls for a latency.
    """

    calibration_bins: PositiveInt
    latency_batch: PositiveInt
    latency_repeats: Annotated[int, Field(ge=10)]


class ComparisonParams(Strict):
    """How two models are compared.

    Attributes:
        bootstrap_resamples: Resamples of the paired bootstrap.
    """

    bootstrap_resamples: Annotated[int, Field(ge=100)]


class Settings(Strict):
    """Everything that `params.yaml` says, checked.

    Attributes:
        models: Parameters by model and profile: `models["cnn"]["book"]`.
    """

    seed: Seed
    profile: Profile
    roles: dict[Name, dict[Profile, Name]]
    datasets: dict[Name, DatasetParams]
    validation: ValidationParams
    evaluation: EvaluationParams
    comparison: ComparisonParams
    tracking: TrackingParams
    models: dict[str, dict[Profile, Any]]

    def params(self, model: str) -> ModelParams:
        """Return a model's parameters in the active profile.

        Raises:
            ConfigError: If `params.yaml` has no block for it.
        """
        self.check_names([model], self.models, "model")
        params: ModelParams = self.models[model][self.profile]
        return params

    def dataset_of(self, model: str) -> str:
        """Return the name of the dataset that a model learns in the active profile."""
        return self.roles[self.params(model).role][self.profile]

    def check_names(self, names: Iterable[str], valid: Iterable[str], kind: str) -> None:
        """Raise a `ConfigError` that names the nearest valid name for each unknown one."""
        valid = sorted(valid)
        wrong = [name for name in names if name not in valid]
        if wrong:
            raise ConfigError(
                "\n".join(f"Unknown {kind}: {name!r}.{nearest(name, valid)}" for name in wrong)
            )


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return ` Did you mean ...?`, or the list of what is valid where nothing is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid: {', '.join(valid)}." if valid else ""
