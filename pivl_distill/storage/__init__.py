"""Files on disk: atomic writes, tensor files, and the array cache."""
