"""Decides what the scripted model answers: script and conversation in, `Answer` out.

The director remembers nothing about conversations. It replays the turn from the request: for each exchange since the
last prompt it finds the step that must have been played, collects what was captured on the way, and so arrives at the
step that comes now. Only how often one and the same request was spoiled by a fault is counted (`Attempts`).

Whatever goes wrong in a script (no scenario, no step, a hole without value, a tool that is not offered) becomes a plain
answer that says so: the person who looks at the transcript must be able to tell a script's limit from a fault.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from openinspect.testing.answer import (
    MAX_TEXT,
    Answer,
    Breakdown,
    Cut,
    Part,
    Pause,
    Reasoning,
    Refusal,
    Text,
    Use,
)
from openinspect.testing.conversation import Conversation, Exchange
from openinspect.testing.script import Fault, LineRule, Piece, Scenario, Script, Step, ToolCall, When
from openinspect.testing.templates import TemplateError, render, render_pattern, render_text, render_tree

MAX_MATCHED = 200_000
MAX_PAUSE_S = 3600.0
MAX_ATTEMPTS = 4096


class Lost(Exception):
    """The script does not say what to do now; the text says why."""


class Attempts:
    """How often one request was spoiled by a fault; the oldest are forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def seen(self, fingerprint: str) -> int:
        """How often this request came before; counts this one as well."""
        count = self._counts.pop(fingerprint, 0)
        self._counts[fingerprint] = count + 1
        if len(self._counts) > MAX_ATTEMPTS:
            self._counts.popitem(last=False)
        return count


def direct(
    script: Script, conversation: Conversation, attempts: Attempts, delay_ms: float | None = None
) -> Answer:
    """The answer to this request. `delay_ms` (per word) stands for the script's own pace when it is given."""
    pace = script.delay_ms if delay_ms is None else delay_ms
    values = facts(conversation)
    if re.search(script.unknown_models, conversation.model):
        return Answer([], refusal=Refusal(404, f"model: {conversation.model} does not exist"))
    if conversation.kind == "summary":
        return Answer(
            [Text(f"Summary of the conversation so far.\n\n{conversation.prompt[:2000]}")], step="summary"
        )
    scenario = None
    try:
        if conversation.kind == "title":
            return Answer([Text(render_text(script.title, values))], step="title")
        scenario = _scenario(script, conversation, values)
        name, pieces, length = _play(scenario, conversation, values)
        return _answer(scenario.name, name, pieces, conversation, attempts, pace, length)
    except (Lost, TemplateError) as error:
        if scenario is not None:
            text = f"[scripted model, script “{script.name}”, scenario “{scenario.name}”] {error}"
        else:
            text = str(error) if script.otherwise is None else render_text(script.otherwise, values)
        return Answer([Text(text, pace / 1000)], scenario=scenario.name if scenario else "", step="lost")


def facts(conversation: Conversation) -> dict[str, str]:
    """What every template may use."""
    return {
        "prompt": conversation.prompt,
        "model": conversation.model,
        "effort": conversation.effort or "none",
        "images": str(len(conversation.images)),
        "image_kinds": ", ".join(f"{image.mime} of {image.size} bytes" for image in conversation.images)
        or "none",
        "tools": ", ".join(conversation.tools) or "none",
        "turn": str(conversation.turn),
        "step": str(len(conversation.exchanges) + 1),
    }


# --- finding the place -------------------------------------------------------------------------------------------


def _scenario(script: Script, conversation: Conversation, values: dict[str, str]) -> Scenario:
    for scenario in script.scenarios:
        captured = _holds(scenario.when, conversation, values, None, 1, None)
        if captured is not None:
            values.update(captured)
            return scenario
    raise Lost(_nothing_for(script, conversation.prompt))


def _nothing_for(script: Script, prompt: str) -> str:
    """Said to a person who asked for what no scenario is for, most likely without knowing that this is no language model."""
    known = "\n".join(f"- {scenario.about or scenario.name}" for scenario in script.scenarios)
    return (
        f"This is a scripted model, not a language model: it can do what its script “{script.name}” says, and nothing in there is for the "
        f"prompt “{prompt[:200]}”. I changed nothing.\n\nFor a real model set ANTHROPIC_API_KEY or OPENAI_API_KEY where the server runs and "
        f"start it again (`make stop`, then `make run`).\n\nThis script knows:\n\n{known}"
    )


def _play(
    scenario: Scenario, conversation: Conversation, values: dict[str, str]
) -> tuple[str, list[tuple[Piece, dict[str, str]]], bool]:
    """The pieces of the answer that comes now, each with its values."""
    done = len(conversation.exchanges)
    if scenario.each_line:
        groups = _groups(scenario, conversation, values)
        index = min(done, len(groups) - 1)
        return f"answer {index + 1}", groups[index], False
    index = -1
    step = scenario.steps[0]
    for number in range(done + 1):
        exchange = conversation.exchanges[number - 1] if number else None
        if exchange is not None:
            values["result"] = exchange.result[:MAX_MATCHED]
        index, step = _next_step(scenario, conversation, values, exchange, number + 1, index)
        if number < done and not (step.call or step.calls):
            raise Lost(
                f"Step “{step.name}” ends the turn, but the conversation goes on with tool calls that this script "
                "never made: it was begun by another model or another version of the script."
            )
    return step.name, [(step, dict(values))], step.stop == "length"


def _next_step(
    scenario: Scenario,
    conversation: Conversation,
    values: dict[str, str],
    exchange: Exchange | None,
    number: int,
    previous: int,
) -> tuple[int, Step]:
    before = scenario.steps[previous].name if previous >= 0 else None
    for index in range(previous + 1, len(scenario.steps)):
        step = scenario.steps[index]
        captured = _holds(step.when, conversation, values, exchange, number, before)
        if captured is None:
            continue
        values.update(captured)
        for pattern in step.capture:
            found = _search(pattern, values.get("result", ""), values)
            if found:
                values.update(_named(found))
        return index, step
    if before is None:
        raise Lost("None of its steps fits the beginning of this turn.")
    said = (exchange.result if exchange else "").strip() or "nothing"
    raise Lost(f"After step “{before}” no step fits what the tool said:\n\n{said[-1500:]}")


def _groups(
    scenario: Scenario, conversation: Conversation, values: dict[str, str]
) -> list[list[tuple[Piece, dict[str, str]]]]:
    """The lines of the prompt as answers: each ends with a call, the last one with the closing text."""
    groups: list[list[tuple[Piece, dict[str, str]]]] = [[]]
    results = [exchange.result for exchange in conversation.exchanges]
    unknown: list[str] = []
    for line in filter(None, (line.strip() for line in conversation.prompt.splitlines())):
        known = {**values, "result": results[len(groups) - 2] if 1 < len(groups) <= len(results) + 1 else ""}
        match = _rule(scenario.each_line, line, known)
        if match is None:
            unknown.append(line)
            continue
        rule, captured = match
        groups[-1].append((rule, {**known, **captured}))
        if rule.call or rule.calls:
            groups.append([])
    last = results[-1] if results else ""
    ending = {**values, "result": last, "unknown": "; ".join(unknown)}
    if unknown:
        groups[-1].append((Piece(text="I don't know these lines: {{unknown | short}}\n"), ending))
    if scenario.closing:
        groups[-1].append((Piece(text=scenario.closing), ending))
    elif not groups[-1]:
        groups[-1].append((Piece(text="Done."), ending))
    return groups


def _rule(
    rules: Sequence[LineRule], line: str, values: dict[str, str]
) -> tuple[LineRule, dict[str, str]] | None:
    for rule in rules:
        found = _search(rule.line, line, values)
        if found:
            return rule, {"line": line, **_named(found)}
    return None


# --- matching ----------------------------------------------------------------------------------------------------


def _holds(
    when: When,
    conversation: Conversation,
    values: Mapping[str, str],
    exchange: Exchange | None,
    number: int,
    before: str | None,
) -> dict[str, str] | None:
    """What the matchers captured, or None when one of them does not hold."""
    after = [when.after] if isinstance(when.after, str) else when.after
    plain = (
        (after is None or before in after)
        and (when.turn is None or when.turn == conversation.turn)
        and (when.step is None or when.step == number)
        and (when.images is None or when.images == len(conversation.images))
        and (when.failed is None or (exchange is not None and when.failed == exchange.failed))
        and (when.offered is None or _offered(when.offered, conversation) is not None)
        and (when.not_offered is None or _offered(when.not_offered, conversation) is None)
    )
    if not plain:
        return None
    texts: list[tuple[str, str | None]] = []
    if when.prompt is not None:
        texts.append((when.prompt, conversation.prompt))
    if when.model is not None:
        texts.append((when.model, conversation.model))
    if when.result is not None:
        texts.append((when.result, exchange.result if exchange else None))
    texts += [(pattern, conversation.headers.get(name.lower())) for name, pattern in when.headers.items()]
    captured: dict[str, str] = {}
    for pattern, text in texts:
        found = _search(pattern, text, values) if text is not None else None
        if found is None:
            return None
        captured.update(_named(found))
    return captured


def _search(pattern: str, text: str, values: Mapping[str, str]) -> re.Match[str] | None:
    return re.search(render_pattern(pattern, values), text[:MAX_MATCHED], re.MULTILINE)


def _named(found: re.Match[str]) -> dict[str, str]:
    return {name: value for name, value in found.groupdict().items() if value is not None}


def _offered(tool: str, conversation: Conversation) -> str | None:
    return next((name for name in conversation.tools if fnmatchcase(name, tool)), None)


# --- building the answer -----------------------------------------------------------------------------------------


def _answer(
    scenario: str,
    step: str,
    pieces: list[tuple[Piece, dict[str, str]]],
    conversation: Conversation,
    attempts: Attempts,
    pace: float,
    length: bool,
) -> Answer:
    parts: list[Part] = []
    usage = None
    faults = _Faults(attempts, conversation)
    for piece, values in pieces:
        delay = pace / 1000 if piece.delay_ms is None else _number(piece.delay_ms, values) / 1000
        usage = piece.usage or usage
        length = length or piece.stop == "length"
        if piece.reasoning:
            parts.append(Reasoning(_text(piece.reasoning, values), delay))
        if piece.text:
            parts.append(Text(_text(piece.text, values), delay))
        if piece.fault:
            happens = faults.happens(piece.fault, values)
            if isinstance(happens, Refusal):
                return Answer([], scenario=scenario, step=step, refusal=happens)
            if happens is not None:
                parts.append(happens)
            if isinstance(happens, Cut | Breakdown):
                break
        parts.extend(_use(call, conversation, values, delay) for call in _calls(piece, conversation))
    return Answer(parts, scenario=scenario, step=step, usage=usage, length=length)


class _Faults:
    """Which of an answer's faults is due: each spoils its number of attempts, in order."""

    def __init__(self, attempts: Attempts, conversation: Conversation) -> None:
        self._attempts = attempts
        self._conversation = conversation
        self._left: int | None = None

    def happens(self, fault: Fault, values: dict[str, str]) -> Refusal | Part | None:
        if fault.stall_s is not None:
            return Pause(min(MAX_PAUSE_S, _number(fault.stall_s, values)))
        if self._left is None:
            self._left = self._attempts.seen(self._conversation.fingerprint)
        times = int(_number(fault.times, values))
        if 0 <= times <= self._left:
            self._left -= times
            return None
        if fault.cut:
            return Cut()
        status = int(_number(fault.status, values)) if fault.status is not None else 0
        message = (
            _text(fault.message, values)
            if fault.message
            else f"The script says: fail with {status or 'an error'}."
        )
        if fault.event:
            return Breakdown(message)
        wait = None if fault.retry_after is None else _number(fault.retry_after, values)
        return Refusal(status, message, wait)


def _calls(piece: Piece, conversation: Conversation) -> list[ToolCall]:
    if piece.call is None:
        return piece.calls
    choices = piece.call if isinstance(piece.call, list) else [piece.call]
    return [next((call for call in choices if _offered(call.tool, conversation)), choices[0])]


def _use(call: ToolCall, conversation: Conversation, values: dict[str, str], delay: float) -> Use:
    wanted = render_text(call.tool, values)
    name = _offered(wanted, conversation)
    if name is None:
        raise Lost(f"It wants the tool “{wanted}”; offered are: {', '.join(conversation.tools) or 'none'}.")
    arguments: Any = render_tree(call.args, values)
    if not isinstance(arguments, dict):
        raise Lost(f"The arguments of the call of “{wanted}” are no object but {str(arguments)[:100]!r}.")
    return Use(name, arguments, delay)


def _text(template: str, values: dict[str, str]) -> str:
    return render_text(template, values)[:MAX_TEXT]


def _number(value: float | str, values: dict[str, str]) -> float:
    if isinstance(value, int | float):
        return float(value)
    rendered = render(value, values)
    try:
        return float(rendered)
    except (TypeError, ValueError) as error:
        raise Lost(f"{value} gives {rendered!r}, which is no number.") from error
