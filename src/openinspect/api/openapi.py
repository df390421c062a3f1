"""Prints the OpenAPI document: ``python -m openinspect.api.openapi``. The web app's types are generated from it."""

from __future__ import annotations

import json
import sys

from .app import create_app

if __name__ == "__main__":
    json.dump(create_app().openapi(), sys.stdout, indent=1, sort_keys=True)
