"""The commands. Each imports its stage inside the function, so that --help is fast."""
