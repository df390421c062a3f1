"""The script file: what the scripted model says, and when.

    name: demo                         # shown in answers and records
    delay_ms: 10                       # pause before each streamed word
    include: [playground]              # scenarios of other scripts, tried before these
    scenarios:
      - name: fix the failing test
        when: {prompt: '(?i)failing test'}     # the first scenario that matches the prompt plays
        steps:
          - name: run the tests
            text: I run the tests first.
            call: {tool: bash, args: {command: python3 -m unittest}}
          - name: all is well
            when: {result: '^OK$'}
            text: Nothing to repair.
          - name: read
            when: {result: 'File "(?P<file>.+?)", line (?P<line>\\d+)'}
            call: {tool: read, args: {filePath: '{{file}}'}}

Steps only go forward: after a step's tool has answered, the next step is the first later one whose `when` holds. All
matchers of a `when` must hold; patterns are searched with `^` and `$` meaning lines; named groups become values for
`{{holes}}` in everything that follows. A step without a call ends the turn.

A scenario has either `steps`, or `each_line`: then every line of the prompt becomes a piece of the answer, by the first
rule whose `line` matches; a line with a call or an error ends an answer, the next line starts the next one.

`call` is one call, or a list of alternatives of which the first whose tool is offered is made; `calls` is several at
once. A tool's name may hold wildcards (`*create_pull_request`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from openinspect.testing.templates import TemplateError, check

MAX_SCRIPT_BYTES = 1_000_000
SCRIPTS = Path(__file__).parent / "scripts"


class ScriptError(Exception):
    """The script file can't be used; the text says where and why."""


def _template(value: str) -> str:
    try:
        check(value)
    except TemplateError as error:
        raise ValueError(str(error)) from error
    return value


def _pattern(value: str) -> str:
    _template(value)
    try:
        re.compile(re.sub(r"\{\{.*?\}\}", "x", value), re.MULTILINE)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _tree(value: Any) -> Any:
    if isinstance(value, str):
        _template(value)
    elif isinstance(value, list):
        for item in value:
            _tree(item)
    elif isinstance(value, dict):
        for item in value.values():
            _tree(item)
    return value


Template = Annotated[str, AfterValidator(_template)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Tree = Annotated[Any, AfterValidator(_tree)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Strict):
    """Matchers; all that are given must hold."""

    prompt: Pattern | None = None
    result: Pattern | None = None
    """Searched in the answer of the last tool; never holds before the first tool has answered."""
    failed: bool | None = None
    """Whether the last tool's answer was marked as an error (only the Anthropic API has such a mark)."""
    after: str | list[str] | None = None
    """The name of the step that was played before this one."""
    model: Pattern | None = None
    turn: int | None = None
    step: int | None = None
    """Which answer of this turn it is, from 1."""
    offered: str | None = None
    """A tool of this name (wildcards allowed) is offered."""
    not_offered: str | None = None
    images: int | None = None
    headers: dict[str, Pattern] = Field(default_factory=dict)


class ToolCall(_Strict):
    """One tool call. `args` is a tree with holes."""

    tool: str
    args: Tree = Field(default_factory=dict)


class Usage(_Strict):
    """Token counts to report instead of the estimated ones."""

    input: int | None = Field(default=None, ge=0)
    output: int | None = Field(default=None, ge=0)
    reasoning: int | None = Field(default=None, ge=0)
    cache_read: int | None = Field(default=None, ge=0)
    cache_write: int | None = Field(default=None, ge=0)


class Fault(_Strict):
    """Something that goes wrong. Exactly one of `status`, `cut`, `stall_s`, `event`.

    `times` is how often the very same request is spoiled before it is answered (-1: always).
    """

    status: int | Template | None = None
    retry_after: float | Template | None = None
    message: Template | None = None
    cut: bool = False
    """The connection is dropped after what has been said so far."""
    stall_s: float | Template | None = None
    """Nothing is sent for so many seconds, then it goes on."""
    event: bool = False
    """An error in the middle of the stream, in the provider's own shape."""
    times: int | Template = 1

    @model_validator(mode="after")
    def _one(self) -> Fault:
        given = [self.status is not None, self.cut, self.stall_s is not None, self.event]
        if sum(given) != 1:
            raise ValueError("a fault is exactly one of: status, cut, stall_s, event")
        return self


class Piece(_Strict):
    """What is said: reasoning first, then text, then what goes wrong, then the calls."""

    reasoning: Template | None = None
    text: Template | None = None
    fault: Fault | None = None
    call: ToolCall | list[ToolCall] | None = None
    calls: list[ToolCall] = Field(default_factory=list)
    delay_ms: float | Template | None = None
    """Pause before each streamed word, in milliseconds; overrides the script's and the server's."""
    usage: Usage | None = None
    stop: Literal["length"] | None = None
    """End as if the model's output limit was reached."""

    @model_validator(mode="after")
    def _call_or_calls(self) -> Piece:
        if self.call and self.calls:
            raise ValueError("give either call or calls")
        return self


class Step(Piece):
    """One answer of the model within a turn."""

    name: str
    when: When = Field(default_factory=When)
    capture: list[Pattern] = Field(default_factory=list)
    """Searched in the last tool's answer for more named groups; they need not match."""


class LineRule(Piece):
    """How one line of the prompt is played."""

    line: Pattern


class Scenario(_Strict):
    """What to do about one kind of prompt."""

    name: str
    about: str = ""
    """What it can do, in plain words, for people whose prompt no scenario is for."""
    when: When = Field(default_factory=When)
    steps: list[Step] = Field(default_factory=list)
    each_line: list[LineRule] = Field(default_factory=list)
    closing: Template | None = None
    """With `each_line`: said at the end."""

    @model_validator(mode="after")
    def _sound(self) -> Scenario:
        if bool(self.steps) == bool(self.each_line):
            raise ValueError("a scenario has either steps or each_line")
        names = [step.name for step in self.steps]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"two steps are named {sorted(doubled)[0]!r}")
        for step in self.steps:
            after = [step.when.after] if isinstance(step.when.after, str) else step.when.after or []
            for name in after:
                if name not in names:
                    raise ValueError(f"step {step.name!r} is after {name!r}, which is no step here")
        return self


class Script(_Strict):
    """A whole script file."""

    name: str
    delay_ms: float = Field(default=10, ge=0)
    title: Template = "{{prompt | title}}"
    unknown_models: Pattern = r"^no-such-"
    """Models that are answered with the provider's own 'not found'."""
    models: list[str] = Field(default_factory=list)
    """What the models endpoint lists; empty for a fitting default."""
    include: list[str] = Field(default_factory=list)
    otherwise: Template | None = None
    """Said when no scenario fits; the default says that this is no language model, and what it can do."""
    scenarios: list[Scenario] = Field(min_length=1)


def load(script: str | Path | Script) -> Script:
    """Read a script: a path, or the bare name of one that is shipped (`demo`). Raises ScriptError."""
    if isinstance(script, Script):
        return script
    path = _find(script)
    loaded = _read(path)
    scenarios: list[Scenario] = []
    for name in loaded.include:
        other = _read(_find(name))
        if other.include:
            raise ScriptError(
                f"{path}: includes {name!r}, which itself includes others; list those here instead"
            )
        scenarios.extend(other.scenarios)
    return loaded.model_copy(update={"scenarios": [*scenarios, *loaded.scenarios]})


def _find(script: str | Path) -> Path:
    path = Path(script)
    if isinstance(script, str) and re.fullmatch(r"[\w-]+", script):
        path = SCRIPTS / f"{script}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(entry.stem for entry in SCRIPTS.glob("*.yaml")))
        raise ScriptError(f"there is no script {str(script)!r}; give a file's path or one of: {shipped}")
    return path


def _read(path: Path) -> Script:
    try:
        if path.stat().st_size > MAX_SCRIPT_BYTES:
            raise ScriptError(f"{path}: larger than {MAX_SCRIPT_BYTES} bytes")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise ScriptError(f"{path}: not valid YAML: {error}") from error
    try:
        return Script.model_validate(content)
    except ValidationError as error:
        places = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: {problem['msg']}"
            for problem in error.errors()[:5]
        ]
        raise ScriptError(f"{path}: " + "; ".join(places)) from error
