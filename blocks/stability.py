"""The credentials block of Stability AI."""

from __future__ import annotations

from typing import Any

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl

from prefect_kosmokrator.integrations.accounts import ApiKey, MaxCost, Url
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.stability_api import StabilityAccount, client_of


class StabilityCredentials(CredentialsBlock):
    """An account of Stability AI. The block's name is the account's name in tasks and flows.

    Example:
        Save the account `work`, then use it by its name:
        ```python
        from prefect_kosmokrator.blocks import StabilityCredentials

        StabilityCredentials(api_key="sk-...").save("work")
        ```

        Load it again:
        ```python
        from prefect_kosmokrator.blocks import StabilityCredentials

        credentials = StabilityCredentials.load("BLOCK_NAME")
        credentials.check()
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name = "Stability AI Credentials"
    _block_type_slug = "stability-credentials"
    _logo_url = HttpUrl("https://github.com/Stability-AI.png?size=200")
    _documentation_url = HttpUrl("https://platform.stability.ai/docs/api-reference")

    api_key: ApiKey = Field(description="API key, from the account page of the Stability AI platform.")
    base_url: Url = Field(default="https://api.stability.ai", description="Root address of the API.")

    max_cost: MaxCost = Field(
        default="", description="What calls may cost in one day (UTC), such as 20 USD or 300 credits; empty for any."
    )

    def get_client(self, *_: Any, **__: Any) -> Client:
        """The HTTP client of this account."""
        name = self._block_document_name or "unsaved"
        return client_of(StabilityAccount(name=name, api_key=self.api_key, base_url=self.base_url))

    def check(self) -> str:
        """Tests key and address with a free request.

        Returns:
            A sentence with the balance.

        Raises:
            KosmoError: What is wrong with the account, for example `Rejected` for a wrong key.
        """
        answer = self.get_client().json(Request("GET", f"{self.base_url}/v1/user/balance"))
        return f"Connected to Stability AI; {float(answer['credits']):,.1f} credits left."
