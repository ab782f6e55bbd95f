"""Every error of the pack, grouped by what the caller must do.

::

    KosmoError
    ├── ConfigurationError        set something up: account, key, address, output store
    ├── InvalidInput              correct the call; nothing was sent, nothing was paid
    ├── Rejected                  the service said no (400, 401, 403, 404, 413, 422); repeating will not help
    │   ├── Moderated             the prompt or a picture was refused
    │   ├── OutOfCredits          top the account up
    │   └── EndpointDiscontinued  the vendor removed it; the message names the replacement
    ├── BudgetExceeded            raise `max_cost`, or wait for the next day; nothing was sent, nothing was paid
    ├── Unavailable               try again later (429, 5xx, network)
    ├── AmbiguousSubmission       a paid request may or may not have been accepted: look before repeating
    ├── JobFailed                 the service accepted the job and could not finish it
    ├── JobPending                the job is still running; ask again
    ├── DeadlineExceeded          waiting took too long; the job goes on and can be waited for again
    ├── ContentFiltered           paid for, but blurred or blacked out by a safety filter
    ├── StorageError              the result could not be stored; `spool` names where it was kept
    └── LuaError                  a script failed, met a limit or was cancelled (defined in `lua`)

A caller branches on the class; `retryable` answers the one question a retry policy has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class KosmoError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        message: What happened and what to do, without a secret in it.
        provider: `"stability"`, `"fal"`, ... or None when no provider is involved.
        function: The function that was called, for example `"generate_core"`.
        account: The name of the account that was used; never its key.
        status: The HTTP status, when a service answered.
        request_id: The service's own id for the request; quote it to the vendor's support.
        code: The service's own name for the error, for example `"content_moderation"`.
        retryable: Whether the same call may be repeated without risk and with a chance of success.
        retry_after: Seconds the service asked to wait, when it did.
    """

    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        function: str | None = None,
        account: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        code: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        # `message` alone goes to Exception.args: pickle rebuilds from args and restores the rest from __dict__.
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.function = function
        self.account = account
        self.status = status
        self.request_id = request_id
        self.code = code
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        """The class name: what Lua and JSON callers branch on."""
        return type(self).__name__

    def __str__(self) -> str:
        where = ".".join(part for part in (self.provider, self.function) if part)
        if where and self.account:
            where = f"{where} (account {self.account!r})"
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} [request {self.request_id}]" if self.request_id else text


class ConfigurationError(KosmoError):
    """An account, key, address or output store is missing or wrong."""


class InvalidInput(KosmoError):
    """A parameter is wrong. Raised before any request is sent.

    Attributes:
        parameter: The name of the parameter, when one is to blame.
    """

    def __init__(self, message: str, *, parameter: str | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.parameter = parameter


class Rejected(KosmoError):
    """The service refused the request and will refuse it again."""


class Moderated(Rejected):
    """The prompt or an input picture was refused by content moderation. Not charged."""


class OutOfCredits(Rejected):
    """The account has no credits left, or fal locked it for that reason."""


class EndpointDiscontinued(Rejected):
    """The vendor removed this endpoint."""


class BudgetExceeded(KosmoError):
    """A call would cost more than `max_cost` of its run or account allows. Nothing was sent.

    Attributes:
        spent: What was spent before, in US dollars; None if the call's own price is what is not known.
        limit: The budget in US dollars.
    """

    def __init__(self, message: str, *, spent: float | None = None, limit: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.spent = spent
        self.limit = limit


class Unavailable(KosmoError):
    """The service cannot answer now: rate limit, server error or network."""

    retryable_by_default = True


class AmbiguousSubmission(KosmoError):
    """A paid request was sent and no usable answer came back, so it may have been accepted and billed."""


class JobError(KosmoError):
    """Base of the errors about a job that a service has accepted.

    Attributes:
        job: The `Job`, with which waiting, fetching or cancelling can go on.
    """

    def __init__(self, message: str, *, job: Any = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.job = job


class JobFailed(JobError):
    """The service accepted the job and could not finish it."""


class JobPending(JobError):
    """The job is still queued or running; ask again later."""

    retryable_by_default = True


class DeadlineExceeded(JobError):
    """The deadline passed while waiting. The job goes on and may be billed; wait again with `error.job`."""


class ContentFiltered(KosmoError):
    """The service returned a blurred or black picture because of its safety filter; it was probably charged.

    Attributes:
        media: What was returned (a list for fal), to look at or to keep.
    """

    def __init__(self, message: str, *, media: Any = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.media = media


class StorageError(KosmoError):
    """A file could not be stored or read.

    Attributes:
        spool: The local file that holds the paid bytes which could not be stored, if any.
        uri: Where they should have gone.
        media: What is known about the spooled file.
        transient: Whether the store may work again by itself: an outage, not a missing bucket or permission.
    """

    def __init__(
        self,
        message: str,
        *,
        spool: Path | None = None,
        uri: str | None = None,
        media: Any = None,
        transient: bool = False,
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.spool = spool
        self.uri = uri
        self.media = media
        self.transient = transient


def is_provably_free(error: KosmoError) -> bool:
    """Whether a call that failed with `error` cannot have been billed, so that making it again pays nothing twice."""
    return isinstance(error, InvalidInput | ConfigurationError | Rejected | BudgetExceeded | Unavailable)
