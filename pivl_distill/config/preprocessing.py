"""How the input of a network that this project did not train is made from RGB crops."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from pivl_distill.config.base import Settings, setting

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocessing(Settings):
    """Input of a network: (pixels in 0..`range` − `mean`) / `std`, per channel.

    Crops are resized as everywhere in this project: bilinear with antialiasing, without padding.
    """

    colour: Literal["rgb", "bgr"] = setting(..., "order of the channels, of mean and of std")
    range: Literal[1, 255] = setting(..., "pixel value of white, before mean and std are applied")
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = setting(
        (0.0, 0.0, 0.0), "subtracted from the pixels", unit="as `range`"
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = setting(
        (1.0, 1.0, 1.0), "divides the pixels after mean is subtracted", unit="as `range`"
    )
    size_hw: tuple[PositiveInt, PositiveInt] | None = setting(
        None, "height and width of the input; null: those in the file", unit="pixels"
    )
    layout: Literal["auto", "nchw", "nhwc"] = setting(
        "auto", "axes of the input; auto: the axis of length 3 in the file has the channels"
    )
    output: str | None = setting(
        None, "output with the embeddings; only for files that have several"
    )

    @model_validator(mode="after")
    def _check_mean_is_in_range(self) -> Preprocessing:
        fits = all(value == 0 or self.range // 255 <= value <= self.range for value in self.mean)
        if not fits:
            raise ValueError(f"the mean {self.mean} is not in units of pixels in 0..{self.range}")
        return self
