"""GET /v1/models."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.backend import ModelCard

OWNER = "qwen-oai-server"


class Permission(msgspec.Struct, frozen=True):
    id: str
    created: int
    object: Literal["model_permission"] = "model_permission"
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    root: str
    max_model_len: int
    permission: list[Permission]
    owned_by: str = OWNER
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


def models(card: ModelCard) -> list[Model]:
    """One entry a served name, in order."""
    return [
        Model(
            id=name,
            created=card.created,
            root=card.root,
            max_model_len=card.max_model_len,
            permission=[Permission(id=f"modelperm-{index}", created=card.created)],
        )
        for index, name in enumerate(card.ids)
    ]
