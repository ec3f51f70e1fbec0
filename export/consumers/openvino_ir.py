"""Write OpenVINO IRs from ONNX files; each is an .xml file and a .bin file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from export.manifest_schema import InputSpec
from pivl_distill.runtime.openvino_session import import_openvino

PIXEL_RANGE = 255


def write_ir(
    source: Path, target: Path, info: Mapping[str, str] | None = None, *, half: bool = False
) -> Path:
    """Write the ONNX file `source`, which takes NCHW, as IR; return `target`, the .xml file.

    `info` goes into `rt_info/model_info`, where programs look for the preprocessing; `half` halves
    the size of the weights. Raises PivlError if openvino is not installed.
    """
    openvino = import_openvino()
    model = openvino.Core().read_model(source)
    model.get_parameters()[0].set_layout(openvino.Layout("NCHW"))
    for key, value in (info or {}).items():
        model.set_rt_info(value, ["model_info", key])
    target.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, target, compress_to_fp16=half)
    return target


def model_info(spec: InputSpec) -> dict[str, str]:
    """Return how Model API and DL Streamer make the input of `spec`: BGR frames, pixels in 0–255.

    Sources: Model API's parameters, and dlstreamer.github.io/dev_guide/model_info_xml.html.
    """
    return {
        "mean_values": " ".join(f"{value:.7g}" for value in _in_pixels(spec.mean)),
        "scale_values": " ".join(f"{value:.7g}" for value in _in_pixels(spec.std)),
        "reverse_input_channels": "True",
        "resize_type": "standard",
    }


def write_bgr_ir(source: Path, target: Path, spec: InputSpec) -> Path:
    """Write the network behind Pillow's bilinear resize and its normalisation; return `target`.

    The IR takes crops uint8 BGR [N, H, W, 3] of any size.
    """
    openvino = import_openvino()
    steps = openvino.preprocess.PrePostProcessor(openvino.Core().read_model(source))
    tensor = steps.input().tensor().set_element_type(openvino.Type.u8)
    tensor.set_layout(openvino.Layout("NHWC")).set_spatial_dynamic_shape()
    tensor.set_color_format(openvino.preprocess.ColorFormat.BGR)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    made = steps.input().preprocess().convert_color(openvino.preprocess.ColorFormat.RGB)
    made.resize(openvino.preprocess.ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    made.convert_element_type(openvino.Type.f32)
    made.mean(_in_pixels(spec.mean)).scale(_in_pixels(spec.std))
    openvino.save_model(steps.build(), target, compress_to_fp16=False)
    return target


def _in_pixels(values: tuple[float, ...]) -> list[float]:
    """Convert a mean or deviation for pixels in 0–1 to pixels in 0–255."""
    return [PIXEL_RANGE * value for value in values]
