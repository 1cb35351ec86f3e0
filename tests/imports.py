"""Prints what each module of the command line imports of the packages, as JSON: `tests.imports wsl.run wsl.data.logits`."""

import importlib
import json
import sys

PACKAGES = ("wsl", "zoo_gen")

if __name__ == "__main__":
    found = {}
    for maker in sys.argv[1:]:
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        importlib.import_module(maker)
        found[maker] = sorted(name for name in sys.modules if name.partition(".")[0] in PACKAGES)
    print(json.dumps(found))
