"""Stage two of the pipeline: light networks taught by a prompt bank."""
