"""Answers that are not files: the service's own JSON object, with the documented fields as attributes."""

from __future__ import annotations

from typing import Any

from prefect_kosmokrator.integrations.media import Cost, Media


class Record(dict[str, Any]):
    """A JSON object of a service. It is a plain dict; subclasses name the documented fields."""


class Job(Record):
    """A job that a service accepted: all that is needed to wait for it, fetch it or cancel it, and nothing secret.

    Attributes:
        id: The service's id of the job; also under `request_id`, fal's name for it.
        provider: Which service has it.
        function: What started it.
        account: Whose key started it, and the only one that can fetch it.
        model_id: fal's model; empty elsewhere. What it was asked to make is under `input`.
        status: As of when this was made.
        cost: What the job is expected to cost, or did cost.
    """

    @property
    def id(self) -> str:
        """The service's id of the job."""
        return str(self["id"])

    @property
    def request_id(self) -> str:
        """The same id, by fal's name."""
        return str(self["request_id"])

    @property
    def provider(self) -> str:
        """Which service has it."""
        return str(self["provider"])

    @property
    def function(self) -> str:
        """What started it."""
        return str(self["function"])

    @property
    def account(self) -> str:
        """Whose key started it."""
        return str(self["account"])

    @property
    def model_id(self) -> str:
        """Fal's model; empty elsewhere."""
        return str(self.get("model_id", ""))

    @property
    def status(self) -> str:
        """The service's word for its state when this was made."""
        return str(self["status"])

    @property
    def cost(self) -> Cost | None:
        """What the job costs, as far as it is known."""
        known = self.get("cost")
        return Cost(known["amount"], known["unit"], known["certain"], known["source"]) if known else None


class Result(Record):
    """The result of a fal request: the model's own JSON, plus what the pack knows about it.

    Attributes:
        media: The files of the result, in the order in which the model lists them. References to fal's addresses, or
            to the output store once they are saved.
        cost: What the request cost.
    """

    media: list[Media]
    cost: Cost | None
    request_id: str

    def __init__(
        self, data: dict[str, Any], *, media: list[Media], cost: Cost | None = None, request_id: str = ""
    ) -> None:
        super().__init__(data)
        self.media = media
        self.cost = cost
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _result, (dict(self), self.media, self.cost, self.request_id)


def _result(data: dict[str, Any], media: list[Media], cost: Cost | None, request_id: str) -> Result:
    return Result(data, media=media, cost=cost, request_id=request_id)
