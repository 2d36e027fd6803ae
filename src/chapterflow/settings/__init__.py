"""The settings: what `params.yaml` may say, as strict, frozen records."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from chapterflow.errors import ConfigError
from chapterflow.models.parts.base import ModelParams, PositiveInt, Strict
from chapterflow.models.parts.registry import model_names
from chapterflow.settings.bounds import ValidationParams
from chapterflow.settings.datasets import DatasetParams
from chapterflow.settings.promotion import PromotionParams
from chapterflow.settings.types import Name, Seed

Profile = Literal["embedded", "book"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


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
    promotion: PromotionParams
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
        return self.datasets_of(model)[0]

    def datasets_of(self, model: str) -> list[str]:
        """Return the names of all datasets that a model reads, that which it learns first."""
        return [self.roles[role][self.profile] for role in self.params(model).roles()]

    def check_names(self, names: Iterable[str], valid: Iterable[str], kind: str) -> None:
        """Raise a `ConfigError` that names the nearest valid name for each unknown one."""
        valid = sorted(valid)
        wrong = [name for name in names if name not in valid]
        if wrong:
            raise ConfigError(
                "\n".join(
                    f"{name}: chapterflow/models has its file, params.yaml no block for it below "
                    "`models:`."
                    if kind == "model" and name in model_names()
                    else f"Unknown {kind}: {name!r}.{nearest(name, valid)}"
                    for name in wrong
                )
            )


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return ` Did you mean ...?`, or the list of what is valid where nothing is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid: {', '.join(valid)}." if valid else ""
