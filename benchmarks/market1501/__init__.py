"""Market-1501: photographs of people, measured outside the repository.

`python -m benchmarks.market1501 COMMAND --root FOLDER`; README.md lists the commands, the files
that a user fetches, and the rules. No image of the data set, no map drawn on one and no weight
trained on one is committed, and tests use generated files.
"""
