"""The Python API: what the commands do, as functions that return the same reports.

    import pivl_distill

    taught = pivl_distill.teach(config="quick")

Defaults are those of the commands. Arguments named after a setting take its value, or for a group
of settings a mapping or settings object with the values that differ from the default. Every error
that a user can correct is a `PivlError`. Importing `pivl_distill` loads none of this.
"""
