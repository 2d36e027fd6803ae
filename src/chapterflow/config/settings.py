"""The settings: what `params.yaml` may say, as strict, frozen records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, Union, get_args

from pydantic import Discriminator, Field, Tag, create_model, field_validator, model_validator

from chapterflow.data.source import get_source, source_names
from chapterflow.errors import ConfigError, nearest
from chapterflow.kinds.dataset import get_kind, kind_names
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import model_names
from chapterflow.types import Name, PositiveInt, Seed, Share, Strict


class ValidationParams(Strict):
    """Bounds of the validation suites: a block for each kind of data, of its class `bounds`."""

    def bounds(self, kind: str) -> Strict:
        """Return the bounds for a kind of data."""
        bounds: Strict = getattr(self, kind.replace("-", "_"))
        return bounds


class SourceParams(Strict):
    """A block of `datasets:`; `kind` names the source, which decides the other keys."""

    kind: str


def _bounds_field(name: str) -> Any:
    """Return the field of a kind, which may be left out where all its bounds have defaults."""
    bounds = get_kind(name).bounds
    needed = any(field.is_required() for field in bounds.model_fields.values())
    return bounds, Field(alias=name) if needed else Field(alias=name, default_factory=bounds)


if TYPE_CHECKING:
    DatasetParams = SourceParams
    AllBounds = ValidationParams
else:
    DatasetParams = Annotated[
        Union[tuple(get_source(name).params for name in source_names())],  # noqa: UP007
        Field(discriminator="kind"),
    ]
    AllBounds = create_model(
        "AllBounds",  # as it is called here: settings are pickled for workers
        __base__=ValidationParams,
        __module__=__name__,
        **{name.replace("-", "_"): _bounds_field(name) for name in kind_names()},
    )
Profile = Literal["embedded", "book"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: Tags of a union, which pydantic adds to the location of a fault; users do not write them.
ONE, EACH = "one number", "one for each"


def _form(given: Any) -> str:
    """Return which of the two forms a value has: only faults of that form are reported."""
    return EACH if isinstance(given, dict) else ONE


Leaf = TypeVar("Leaf")
_ByProfile = Annotated[
    Annotated[Leaf, Tag(ONE)] | Annotated[dict[Profile, Leaf], Tag(EACH)], Discriminator(_form)
]
#: One number for all roles, one for each role, or one for each profile of a role.
ByRole = Annotated[
    Annotated[Leaf, Tag(ONE)] | Annotated[dict[str, _ByProfile[Leaf]], Tag(EACH)],
    Discriminator(_form),
]


class PromotionParams(Strict):
    """Thresholds of the gates between challenger and champion (`docs/promotion.md`).

    A missing threshold fails the gate of its role.

    Attributes:
        floor: Least accuracy on the test split.
        ceiling: For curves, which have no accuracy: largest RMSE on the test split, relative to the
            best classical filter.
        margin: How much worse than the champion a challenger may be: the 95 % paired bootstrap
            interval of the difference in accuracy must lie above minus this margin (for curves,
            the interval of the ratio of RMSEs must lie below 1 plus this margin).
        superiority: Whether the challenger must be significantly better.
        worst_class_margin: What the recall of the worst class may be worse than the champion's.
        calibration_error: Largest expected calibration error.
        latency_ms_p95: Largest 95th percentile of the time for one example, ms, at promotion.
        file_megabytes: Largest file of the model, MB.
        explanations: Least share of attribution methods whose maps depend on the weights
            (randomisation test, Adebayo et al. 2018).
        rescored_difference: Largest difference between the score that was logged and the score now.
        reload_difference: Largest difference between an answer that was logged with the model and
            the answer of the model loaded in a fresh process.
    """

    floor: ByRole[Share]
    ceiling: ByRole[Number]
    margin: ByRole[Share]
    superiority: bool
    worst_class_margin: ByRole[Share]
    calibration_error: ByRole[Share]
    latency_ms_p95: ByRole[Number]
    file_megabytes: ByRole[Number]
    explanations: Share
    rescored_difference: Number
    reload_difference: Number

    def threshold(self, name: str, role: str, profile: str) -> float | None:
        """Return a threshold for a role in a profile; None if `params.yaml` has none."""
        threshold = getattr(self, name)
        for key in (role, profile):
            if isinstance(threshold, dict):
                threshold = threshold.get(key)
        return None if isinstance(threshold, dict | None) else float(threshold)


class TrackingParams(Strict):
    """Where MLflow files the runs.

    Attributes:
        experiment: Name of the MLflow experiment.
    """

    experiment: Annotated[str, Field(min_length=1)]


class ExecutionParams(Strict):
    """Where models, and trials of a sweep, run.

    Attributes:
        engine: Processes of this machine, or workers of a Dask or Ray cluster.
        address: Of Dask's scheduler or Ray's head.
        workers: Models or trials to run side by side, at most.
    """

    engine: Literal["local", "dask", "ray"] = "local"
    address: Annotated[str, Field(min_length=1)] | None = None
    workers: PositiveInt | None = None

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if self.is_remote and self.address is None:
            example = "tcp://HOST:8786" if self.engine == "dask" else "HOST:6379"
            raise ValueError(
                f"engine: {self.engine} needs the address of its cluster: `address: {example}`, or "
                f"`--address {example}`"
            )
        return self

    @property
    def is_remote(self) -> bool:
        """Whether they run on other machines."""
        return self.engine != "local"


class NotifyParams(Strict):
    """Whom a check of the data notifies, and how (`loop.notify`).

    Attributes:
        command: Program and arguments; it reads the document from its standard input.
        webhook: Address that receives the document; `$NAME` is replaced by the environment variable
            NAME, so a secret address stays out of the file.
        timeout: Seconds for each of them.
    """

    command: Annotated[list[str], Field(min_length=1)] | None = None
    webhook: Annotated[str, Field(min_length=1)] | None = None
    timeout: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 10.0


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


class QuestionParams(Strict):
    """A question that the report answers: a model against another, its variants, or filters.

    Attributes:
        title: The question.
        model: The chapter model.
        against: The model that it is compared with, on one test set.
        variants: Variants that it is compared with: names below `beside:`, or their first letters.
        baselines: Filters that a model of curves is compared with.
    """

    title: Annotated[str, Field(min_length=1)]
    model: str
    against: str | None = None
    variants: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    baselines: list[Literal["savitzky_golay", "moving_average"]] = Field(default_factory=list)

    @field_validator("model", "against")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in model_names():
            raise ValueError(f"there is no such chapter model.{nearest(name, model_names())}")
        return name

    @model_validator(mode="after")
    def _one_comparison(self) -> Self:
        if [bool(self.against), bool(self.variants), bool(self.baselines)].count(True) != 1:
            raise ValueError(
                "needs `against: MODEL`, `variants: [NAME]` or `baselines: [NAME]`, and not two of "
                "them"
            )
        return self


class Settings(Strict):
    """Everything that `params.yaml` says, checked.

    Attributes:
        questions: Questions that the report answers, by key.
        models: Parameters by model and profile: `models["cnn"]["book"]`.
    """

    seed: Seed
    profile: Profile
    roles: dict[Name, dict[Profile, Name]]
    datasets: dict[Name, DatasetParams]
    validation: AllBounds
    evaluation: EvaluationParams
    comparison: ComparisonParams
    promotion: PromotionParams
    tracking: TrackingParams
    execution: ExecutionParams = Field(default_factory=ExecutionParams)
    notify: NotifyParams = Field(default_factory=NotifyParams)
    questions: dict[Name, QuestionParams] = Field(default_factory=dict)
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
        """Return the names of all datasets that a model reads, first the one that it learns."""
        return [self.roles[role][self.profile] for role in self.params(model).roles()]

    def profile_datasets(self) -> list[str]:
        """Return the names of the datasets that the active profile fills its roles with."""
        return [by_profile[self.profile] for by_profile in self.roles.values()]

    def check_names(self, names: Iterable[str], valid: Iterable[str], what: str) -> None:
        """Raise a `ConfigError` that names the nearest valid name for each unknown one."""
        valid = sorted(valid)
        wrong = [name for name in names if name not in valid]
        if wrong:
            raise ConfigError(
                "\n".join(
                    f"{name}: chapterflow/models has the file, but params.yaml has no block below "
                    "`models:`."
                    if what == "model" and name in model_names()
                    else f"Unknown {what}: {name!r}.{nearest(name, valid)}"
                    for name in wrong
                )
            )
