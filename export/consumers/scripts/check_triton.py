"""Parse model configurations by Triton's own protobuf: python check_triton.py CONFIG.pbtxt …

Prints version and configurations as JSON. Needs tritonclient; its gRPC, which its package imports,
is not needed.
"""

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from google.protobuf import json_format, text_format


def model_config() -> ModuleType:
    """Return the module `model_config_pb2` of tritonclient."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    protobuf, parsed = model_config(), []
    for path in map(Path, sys.argv[1:]):
        try:
            message = text_format.Parse(path.read_text(), protobuf.ModelConfig())
        except text_format.ParseError as error:
            sys.exit(f"{path}: {error}")
        parsed.append(json_format.MessageToDict(message, preserving_proto_field_name=True))
    print(json.dumps({"by": f"tritonclient {version('tritonclient')}", "configs": parsed}))


if __name__ == "__main__":
    main()
