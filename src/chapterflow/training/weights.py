"""Named weights and handles become files before a model is built."""

from __future__ import annotations

from pathlib import Path

from chapterflow.data.addresses import MIRROR
from chapterflow.data.card import Dataset, open_dataset
from chapterflow.data.download import fetch
from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.models.parts.backbones import PRETEXT, BackboneParams
from chapterflow.models.parts.base import ModelParams
from chapterflow.models.parts.hub_params import EXPORTED, HubParams
from chapterflow.settings.types import RemoteFile

#: Folder below `CHAPTERFLOW_MIRROR`.
MIRROR_FOLDER = "keras-applications"


def with_files(params: ModelParams, dataset: Dataset, scratch: Path) -> ModelParams:
    """Return parameters whose weights, or handle, are a path: fetched, trained or exported now.

    Args:
        dataset: What the model learns; the pretext dataset lies beside it.
        scratch: Folder of the project's scratch.

    Raises:
        ConfigError: If there are no such weights.
        DataError: If the pretext data or the weights are damaged or missing.
        FetchError: If ImageNet weights cannot be had.
    """
    if isinstance(params, HubParams):
        if params.handle in EXPORTED:
            chosen = (
                BackboneParams(backbone="small", weights=PRETEXT)
                if params.handle == PRETEXT
                else BackboneParams(backbone="MobileNet", alpha=params.alpha)
            )
            return params.model_copy(
                update={"handle": str(exported(params, chosen, dataset, scratch))}
            )
    elif isinstance(params, BackboneParams):
        return params.model_copy(update={"weights": weights_of(params, dataset, scratch)})
    return params


def exported(params: HubParams, chosen: BackboneParams, dataset: Dataset, scratch: Path) -> Path:
    """Return the folder of a backbone's export as a SavedModel."""
    from chapterflow.training.hub_export import ensure_export

    weights = weights_of(chosen, dataset, scratch)
    return ensure_export(
        chosen.model_copy(update={"weights": weights}),
        dataset.card.input_spec,
        scratch,
        pooling=params.pooling,
    )


def weights_of(params: BackboneParams, dataset: Dataset, scratch: Path) -> str:
    """Return the path of a backbone's weights; `none` stays."""
    if params.weights == "imagenet":
        return str(imagenet_weights(params.backbone, params.alpha))
    if params.weights == PRETEXT:
        if params.backbone != "small":
            raise ConfigError(
                "weights: pretext exist for the backbone small alone. "
                f"Received: {params.backbone}. Choose backbone: small, or other weights"
            )
        from chapterflow.training.pretext import ensure_backbone

        return str(ensure_backbone(open_dataset(dataset.folder.parent / PRETEXT), scratch))
    return params.weights


def imagenet_weights(backbone: str, alpha: float) -> Path:
    """Return the file of ImageNet weights: from Keras's folder, and else from Keras's address.

    A mirror (`CHAPTERFLOW_MIRROR`) replaces that address.

    Raises:
        ConfigError: If there are none of that width.
        FetchError: If none of them has it.
    """
    import os

    from chapterflow.models.parts.imagenet import check_md5, download, keras_models, weights_file

    file = weights_file(backbone, alpha)
    local = keras_models() / file.name
    if not local.is_file() and os.environ.get(MIRROR):
        try:
            local = fetch(
                RemoteFile(name=file.name),
                mirror_folder=f"{MIRROR_FOLDER}/{file.folder}",
                upstream=(),
                cache=keras_models(),
            )
            check_md5(local, file)
        except DataError:
            local.unlink(missing_ok=True)
            raise
        except FetchError as error:
            # A mirror replaces every upstream address, Keras's too.
            raise FetchError(
                f"{error}\nPut {file.name} there at {MIRROR_FOLDER}/{file.folder}/ or into "
                f"{keras_models()}, unset {MIRROR} to fetch it from Keras's own address, or choose "
                "other weights."
            ) from None
    if local.is_file():
        check_md5(local, file)
        return local
    return download(backbone, alpha)
