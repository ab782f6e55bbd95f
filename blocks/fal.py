"""The credentials block of fal.ai."""

from __future__ import annotations

from typing import Any

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl

from prefect_kosmokrator.integrations.accounts import ApiKey, MaxCost, Url
from prefect_kosmokrator.integrations.fal_api import FalAccount, client_of
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.messages import Request


class FalCredentials(CredentialsBlock):
    """An account of fal.ai. The block's name is the account's name in tasks and flows.

    Example:
        Save the account `work`, then use it by its name:
        ```python
        from prefect_kosmokrator.blocks import FalCredentials

        FalCredentials(api_key="key_id:key_secret").save("work")
        ```

        Load it again:
        ```python
        from prefect_kosmokrator.blocks import FalCredentials

        credentials = FalCredentials.load("BLOCK_NAME")
        credentials.check()
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name = "fal.ai Credentials"
    _block_type_slug = "fal-credentials"
    _logo_url = HttpUrl("https://github.com/fal-ai.png?size=200")
    _documentation_url = HttpUrl("https://fal.ai/docs")

    api_key: ApiKey = Field(description="API key in the form key_id:key_secret, from the fal.ai dashboard.")
    queue_url: Url = Field(default="https://queue.fal.run", description="Address of the queue API.")
    run_url: Url = Field(default="https://fal.run", description="Address of the synchronous API.")
    rest_url: Url = Field(default="https://rest.fal.ai", description="Address of the storage and user API.")
    cdn_url: Url = Field(default="https://v3.fal.media", description="Address of the CDN that takes uploads.")
    api_url: Url = Field(default="https://api.fal.ai/v1", description="Address of the platform API with its version.")

    max_cost: MaxCost = Field(
        default="", description="What calls may cost in one day (UTC), such as 20 USD or 300 credits; empty for any."
    )

    def get_client(self, *_: Any, **__: Any) -> Client:
        """The HTTP client of this account."""
        fields = {name: getattr(self, name) for name in ("queue_url", "run_url", "rest_url", "cdn_url", "api_url")}
        return client_of(FalAccount(name=self._block_document_name or "unsaved", api_key=self.api_key, **fields))

    def check(self) -> str:
        """Tests key and addresses with a free request: the token that every upload needs.

        Returns:
            A sentence.

        Raises:
            KosmoError: What is wrong with the account, for example `Rejected` for a wrong key, `OutOfCredits` for a
                locked account.
        """
        params = {"storage_type": "fal-cdn-v3"}
        self.get_client().json(Request("POST", f"{self.rest_url}/storage/auth/token", params=params, json={}))
        return "Connected to fal.ai."
