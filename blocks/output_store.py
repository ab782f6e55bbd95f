"""The block for a place where generated files go."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from prefect_kosmokrator.integrations import output
from prefect_kosmokrator.integrations.accounts import Url
from prefect_kosmokrator.integrations.errors import InvalidInput


class OutputStore(Block):
    """A bucket or folder for generated files. The block's name is what tasks and flows take as `output`.

    Example:
        Save a store, then use it by its name:
        ```python
        from prefect_kosmokrator.blocks import OutputStore

        OutputStore(url="s3://renders/lamps").save("renders")
        ```

        Load it again:
        ```python
        from prefect_kosmokrator.blocks import OutputStore

        store = OutputStore.load("BLOCK_NAME")
        store.check()
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name = "Media Output Store"
    _block_type_slug = "output-store"
    _logo_url = HttpUrl("https://github.com/aws.png?size=200")
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/")

    url: str = Field(description="Where files go: s3://bucket/folder, or file:///folder on this machine.")
    endpoint_url: Url | None = Field(default=None, description="S3 endpoint of a store other than AWS.")
    access_key_id: str | None = Field(default=None, description="Access key; empty for the machine's own credentials.")
    secret_access_key: SecretStr | None = Field(default=None, description="Secret that belongs to the access key.")
    region: str | None = Field(default=None, description="S3 region; empty for the machine's own.")

    @field_validator("url")
    @classmethod
    def _is_a_store(cls, value: str) -> str:
        try:
            return output.OutputStore(value).url
        except InvalidInput as error:
            raise ValueError(error.message) from None

    def get_store(self) -> output.OutputStore:
        """The store, ready for use."""
        return output.OutputStore(self.url, self.endpoint_url, self.access_key_id, self.secret_access_key, self.region)

    def check(self) -> str:
        """Writes, reads back and removes a small file.

        Returns:
            A sentence.

        Raises:
            StorageError: What is wrong.
        """
        self.get_store().check()
        return f"{self.url} can be written and read."
