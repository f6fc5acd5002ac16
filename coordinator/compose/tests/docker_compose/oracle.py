"""What `docker-compose config` printed, from YAML on stdin to JSON on stdout.

It runs under docker-compose's own interpreter, and so reads with the library that wrote. Command
strings are cut into words as docker-compose cuts them when it creates a container.
"""
import json
import shlex
import sys

import yaml

config = yaml.safe_load(sys.stdin)
for service in config["services"].values():
    for key in ("command", "entrypoint"):
        if isinstance(service.get(key), str):
            service[key] = shlex.split(service[key])
json.dump(config, sys.stdout)
