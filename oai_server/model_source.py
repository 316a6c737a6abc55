"""From `--model` to a folder: the bundled demo model, a local folder, or a download from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from engine.errors import ModelLoadError
from oai_server.settings import Settings

DEMO_MODEL = Path(__file__).parent / "demo_model"
DEMO_NAME = "demo"

WANTED_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.tiktoken", "merges.txt")
"""What a download brings: never pickles, never code."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class ModelSource(msgspec.Struct, frozen=True):
    folder: Path
    name: str
    """What replies call it unless --served-model-name says otherwise: the hub id, or the folder's own name."""


def locate_model(settings: Settings) -> ModelSource:
    """The folder with the checkpoint. Downloads (with progress bars on the terminal) when `--model` is a hub id.

    Raises ModelLoadError that says what was looked for and what to do.
    """
    if not settings.model:
        return ModelSource(DEMO_MODEL, DEMO_NAME)
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        return ModelSource(folder, folder.resolve().name)
    if folder.exists():
        raise ModelLoadError(f"--model {settings.model} is a file; give the folder that holds config.json")
    if not _HUB_ID.fullmatch(settings.model):
        raise ModelLoadError(
            f"--model {settings.model}: no such folder, and not a Hugging Face id like Qwen/Qwen2.5-0.5B"
        )
    return ModelSource(_download(settings), settings.model)


def _download(settings: Settings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    what = f"cannot download {settings.model} from the Hugging Face hub"
    try:
        folder = snapshot_download(
            settings.model,
            revision=settings.revision,
            cache_dir=settings.download_dir,
            allow_patterns=list(WANTED_FILES),
        )
    except RepositoryNotFoundError as error:
        raise ModelLoadError(f"{what}: no such repository, or it needs a login (huggingface-cli login)") from error
    except LocalEntryNotFoundError as error:
        reason = "the hub cannot be reached and the model is not in the local cache"
        raise ModelLoadError(f"{what}: {reason}. Give a folder with --model DIR, or start without --model") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelLoadError(f"{what}: {str(error).splitlines()[0]}") from error
    return Path(folder)
