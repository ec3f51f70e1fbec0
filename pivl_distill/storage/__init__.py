"""Files on disk: atomic writes, safetensors files, and the cache of arrays."""
