"""Edit a picture at Stability AI."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.tasks import stability
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.spending import MaxCost

Edit = Literal["inpaint", "erase", "remove_background", "control_structure"]


@flow(**HOOKS)
def edit_image(
    image: Annotated[str, Field(min_length=1)],
    edit: Edit = "remove_background",
    prompt: Annotated[str, Field(max_length=10_000)] = "",
    mask: str = "",
    negative_prompt: str = "",
    control_strength: Annotated[float, Field(ge=0, le=1)] = 0.7,
    seed: Annotated[int, Field(ge=0, le=4_294_967_294)] = 0,
    output_format: Literal["png", "jpeg", "webp"] = "png",
    account: str = "default",
    output: str = "",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> list[Media]:
    """Edit one picture and store the result.

    Args:
        image: The picture: a path on the worker, or an s3://, file:// or https:// address.
        edit: "inpaint" repaints the masked area by the prompt, "erase" removes what the mask covers,
            "remove_background" cuts out the subject, "control_structure" makes a new picture with the same structure.
        prompt: What to show, in English. Needed for inpaint and control_structure.
        mask: Grey-scale picture, white where to change; for inpaint and erase. Empty: the picture's transparent area.
        negative_prompt: What not to show; for inpaint and control_structure.
        control_strength: How much the structure decides, 0 to 1; for control_structure.
        seed: Repeats an earlier result; 0 picks one at random.
        output_format: Format of the result; jpeg cannot be transparent.
        account: Name of the Stability AI account: a credentials block or KOSMO_* variables.
        output: Output store's name or URL prefix such as s3://bucket/folder. Empty: the setting KOSMO_OUTPUT.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        A reference to the stored picture.
    """
    store = output or default_output()
    if edit in {"inpaint", "control_structure"} and not prompt:
        raise InvalidInput(f"prompt: required for {edit}.", parameter="prompt", function="edit_image")
    if edit == "inpaint":
        media = stability.inpaint(
            image,
            prompt,
            mask=mask or None,
            negative_prompt=negative_prompt or None,
            seed=seed,
            output_format=output_format,
            account=account,
            output=store,
        )
    elif edit == "erase":
        media = stability.erase(
            image, mask=mask or None, seed=seed, output_format=output_format, account=account, output=store
        )
    elif edit == "control_structure":
        media = stability.control_structure(
            image,
            prompt,
            control_strength=control_strength,
            negative_prompt=negative_prompt or None,
            seed=seed,
            output_format=output_format,
            account=account,
            output=store,
        )
    else:
        if output_format == "jpeg":
            raise InvalidInput(
                "output_format: remove_background makes png or webp.", parameter="output_format", function="edit_image"
            )
        media = stability.remove_background(image, output_format=output_format, account=account, output=store)
    publish([media], key="edit-image", title=f"{edit}: {prompt or image}")
    return [media]
