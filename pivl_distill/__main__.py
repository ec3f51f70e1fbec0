"""`python -m pivl_distill`.

Python puts the working directory first on the path then; it is dropped, so that a user's own
`export.py` or `configs/` is not taken for ours.
"""

import sys

if sys.path and sys.path[0] in ("", sys.argv[0].rsplit("/pivl_distill", 1)[0]):
    del sys.path[0]

from pivl_distill.command import main

main()
