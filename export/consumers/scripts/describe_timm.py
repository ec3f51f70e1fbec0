"""Print what timm knows about an architecture: python describe_timm.py ARCHITECTURE"""

import json
import sys

import timm

name = sys.argv[1]
known = timm.is_model(name)
fixed = known and bool(timm.get_pretrained_cfg(name).fixed_input_size)
print(json.dumps({"known": known, "fixed_input_size": fixed}))
