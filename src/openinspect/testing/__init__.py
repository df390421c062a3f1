"""Things to test and to show the system with, that need no account anywhere.

`ScriptedModel` is a model server that plays a script; `create_sample_repository` makes a small repository with a bug.
"""

from openinspect.testing.sample_repository import create_sample_repository
from openinspect.testing.script import ScriptError, load
from openinspect.testing.scripted_model import ScriptedModel

__all__ = ["ScriptError", "ScriptedModel", "create_sample_repository", "load"]
