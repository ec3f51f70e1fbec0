"""Generate parsing maps: `pivl-distill parse`. `pivl_distill.data.part_maps` reads them.

parse_dataset    a map for every image of a data set, and a report
settings         the YAML description of a parser; `presets/` contains the shipped ones
base, build      what parsers share, and the parser that settings describe
onnx_parser      any ONNX segmentation network
segformer        SegFormer from the Hugging Face hub
existing_maps    maps of other tools, converted
resizing         from crops to network inputs and from scores back to crops
postprocessing   remapping and filtering before a map is written
map_folder       the folder of maps on disk
map_statistics   class shares and IoU
qa_sheet         a picture of crops and maps, to inspect
part_unet        the embedded parser's network, trained by `pretrain` on rendered people
"""
