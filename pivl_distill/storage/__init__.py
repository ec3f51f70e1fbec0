"""Files on disk: file names, atomic writes, tensor files, and the array cache."""
