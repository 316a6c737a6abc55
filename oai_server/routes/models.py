"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from litestar import Controller, get
from litestar.params import FromPath
from litestar.types import ASGIApp

from oai_server.errors import ApiError
from oai_server.replies import json_reply
from oai_server.services import services_of
from oai_server.wire.decoding import HttpRequest
from oai_server.wire.models import ModelList, models


class ModelsController(Controller):
    path = "/v1/models"

    @get()
    async def list_models(self, request: HttpRequest) -> ASGIApp:
        """What is served: one entry a name."""
        reply = ModelList(data=models(services_of(request.scope).backend.card))
        return json_reply(reply)

    @get("/{model_id:path}")
    async def retrieve(self, request: HttpRequest, model_id: FromPath[str]) -> ASGIApp:
        """One served name. Ids may contain slashes."""
        name = str(model_id).strip("/")
        for model in models(services_of(request.scope).backend.card):
            if model.id == name:
                return json_reply(model)
        raise ApiError(404, f"The model '{name[:100]}' does not exist", param="model", code="model_not_found")
