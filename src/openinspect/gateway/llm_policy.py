"""What a sandbox may ask of a model provider, and in which words it is refused.

A request goes on when it is one of the generation paths of its provider's API (``Endpoint``), names a model that the session may use, and asks
for nothing that would run, fetch or be kept at the provider: its web search, fetch, code execution, file stores, stored conversations, batches,
remote MCP servers, background work, addresses of images or documents that the provider would fetch. Those would be a way out of the sandbox, which
has no network, and past the meter. Tools that the agent itself runs are its own affair.

The body that goes on is written anew from what was read here, so that no reader at the provider can understand it otherwise than we did.
``store`` is turned off rather than refused (OpenAI's API has it on by default), and usage is asked for in streams that would not report it.

Errors: ``Refused``, with the HTTP status, what happened and what to do; ``refusal_body`` puts it in the words of the provider's API, so that
the agent's SDK shows it as the provider's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from openinspect.models.catalogue import Api, Model, Provider

MAX_BODY_BYTES = 32 * 1024 * 1024

Endpoint = Literal["messages", "messages/count_tokens", "responses", "chat/completions"]

_ENDPOINTS: dict[Api, tuple[Endpoint, ...]] = {
    "anthropic": ("messages", "messages/count_tokens"),
    "openai-responses": ("responses", "chat/completions"),
    "openai-chat": ("chat/completions",),
}

# Types of tools that the agent runs itself, by their beginnings. All others are the provider's, also those that do not exist yet.
_OWN_ANTHROPIC_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")
_OWN_OPENAI_TOOLS = (
    "function",
    "custom",
    "local_shell",
    "apply_patch",
    "computer_use_preview",
    "computer_use",
)

# Beta features of Anthropic's API that change how an answer is made, not what it may reach.
_HARMLESS_BETAS = (
    "claude-code-",
    "computer-use-",
    "context-1m-",
    "context-management-",
    "effort-",
    "extended-cache-ttl-",
    "fine-grained-tool-streaming-",
    "interleaved-thinking-",
    "model-context-window-exceeded-",
    "output-128k-",
    "prompt-caching-",
    "structured-outputs-",
    "token-efficient-tools-",
)
_ALLOWED_TIERS = {None, "auto", "default", "standard", "standard_only", "flex"}

# One token stands for about four bytes of English or code, three of other scripts; an image costs up to about 1,600 whatever its bytes.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_ATTACHMENT = 1_600


class Refused(Exception):
    """The call does not go on. ``kind`` is a word of the provider's own error types where there is one."""

    def __init__(
        self, status: int, kind: str, message: str, remedy: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.status = status
        self.kind = kind
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may go on."""

    endpoint: Endpoint
    model: Model
    body: bytes
    stream: bool
    input_tokens: int
    """An estimate by size, on the high side."""
    output_tokens: int
    """The most that the answer may have."""


def endpoint_of(provider: Provider, method: str, path: str) -> Endpoint:
    """Which of the provider's generation paths this is. Raises ``Refused``."""
    allowed = _ENDPOINTS[provider.api]
    for endpoint in allowed:
        if path == endpoint:
            if method != "POST":
                raise Refused(405, "invalid_request_error", f"/{path} is asked by POST only.")
            return endpoint
    raise Refused(
        404,
        "not_found_error",
        f"The gateway passes on {' and '.join(f'/{name}' for name in allowed)} of {provider.name}'s API only, not /{path[:100]}.",
        "Files, batches and other stores at the provider are not open to sandboxes.",
    )


def check(provider: Provider, endpoint: Endpoint, raw: bytes, allowed: Iterable[str]) -> Call:
    """Read the request's body and say what goes on. ``allowed`` are model ids as ``provider/model``. Raises ``Refused``."""
    body = _read(raw)
    model = _model(provider, body, frozenset(allowed))
    if body.get("service_tier") not in _ALLOWED_TIERS:
        raise _off("service_tier", "Dearer service tiers are not metered", "Leave `service_tier` out.")
    if endpoint == "messages" or endpoint == "messages/count_tokens":
        limit = _check_messages(body)
    elif endpoint == "responses":
        limit = _check_responses(body)
    else:
        limit = _check_chat(body)
    attachments, attachment_bytes = _measure(body)
    written = orjson.dumps(body)
    text_tokens = max(0, len(written) - attachment_bytes) // _BYTES_PER_TOKEN
    return Call(
        endpoint=endpoint,
        model=model,
        body=written,
        stream=body.get("stream") is True,
        input_tokens=min(model.context, text_tokens + attachments * _TOKENS_PER_ATTACHMENT + 1),
        output_tokens=min(model.output, limit) if isinstance(limit, int) and limit > 0 else model.output,
    )


def harmless_betas(header: str) -> str:
    """The part of an ``anthropic-beta`` header that may go on."""
    names = [name.strip() for name in header[:2_000].split(",")]
    return ",".join(name for name in names if name.startswith(_HARMLESS_BETAS))


def refusal_body(api: Api, refused: Refused) -> bytes:
    """The refusal in the shape of the provider's own errors."""
    error: dict[str, Any] = {"type": refused.kind, "message": str(refused)}
    if api == "anthropic":
        return orjson.dumps({"type": "error", "error": error})
    return orjson.dumps({"error": error | {"param": None, "code": refused.kind}})


def _read(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = _read_leniently(raw)
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request_error", "The body of the request is not a JSON object.")
    return body


def _read_leniently(raw: bytes) -> Any:
    # A tool's output cut in the middle of an emoji leaves half a surrogate pair, which providers refuse: it becomes a question mark.
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)
        return orjson.loads(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_request_error", "The body of the request is not JSON in UTF-8.") from None


def _model(provider: Provider, body: dict[str, Any], allowed: frozenset[str]) -> Model:
    name = body.get("model")
    model = provider.models.get(name) if isinstance(name, str) else None
    if model is None or model.id not in allowed:
        here = sorted(model_id for model_id in allowed if model_id.startswith(f"{provider.id}/"))
        shown = repr(name[:80]) if isinstance(name, str) else "none"
        can = f"It may use {', '.join(here)}." if here else f"It may use none of {provider.name}'s."
        raise Refused(
            403,
            "permission_error",
            f"The model {shown} is not one of this session's. {can}",
            "Choose the model in Open-Inspect, for the session or for the prompt.",
        )
    return model


def _off(what: str, why: str, remedy: str = "") -> Refused:
    return Refused(
        403, "permission_error", f"`{what}` is not open to sandboxes: {why[0].lower()}{why[1:]}.", remedy
    )


_REACHES_OUT = "It runs at the provider, past the sandbox's network rules and its meter"
_IS_KEPT = "It refers to what is kept at the provider, which other sessions share"
_IS_FETCHED = "The provider would fetch it from that address"


def _check_tools(tools: Any, own: tuple[str, ...], *, untyped: bool) -> None:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise Refused(400, "invalid_request_error", "`tools` is not a list.")
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind is None and untyped and isinstance(tool, dict):
            continue
        if not isinstance(kind, str) or not any(
            kind.startswith(name) if name.endswith("_") else kind == name for name in own
        ):
            raise _off(
                f"tools: {str(kind)[:60]}",
                _REACHES_OUT,
                "Use a tool of the sandbox instead, such as a command in its shell.",
            )


def _check_messages(body: dict[str, Any]) -> Any:
    if body.get("mcp_servers"):
        raise _off("mcp_servers", _REACHES_OUT, "Connect the agent in the sandbox to the MCP server.")
    if body.get("container"):
        raise _off("container", _REACHES_OUT)
    if body.get("speed") not in (None, "standard"):
        raise _off("speed", "A faster and dearer mode is not metered", "Leave `speed` out.")
    _check_tools(body.get("tools"), _OWN_ANTHROPIC_TOOLS, untyped=True)
    for block in _blocks(body.get("messages"), nested=True):
        kind = block.get("type")
        if kind == "container_upload":
            raise _off("container_upload", _REACHES_OUT)
        source = block.get("source")
        if kind in ("image", "document") and isinstance(source, dict):
            if source.get("type") == "file":
                raise _off("source: file", _IS_KEPT, "Send the content itself, as base64.")
            if source.get("type") not in ("base64", "text", "content"):
                raise _off("source: url", _IS_FETCHED, "Send the content itself, as base64.")
    return body.get("max_tokens")


def _check_responses(body: dict[str, Any]) -> Any:
    for name in ("previous_response_id", "conversation", "prompt"):
        if body.get(name) is not None:
            raise _off(name, _IS_KEPT, "Send the whole conversation, with `store` off.")
    if body.get("background"):
        raise _off("background", "It would go on at the provider after the call has ended")
    body["store"] = False
    body.pop("background", None)
    _check_tools(body.get("tools"), _OWN_OPENAI_TOOLS, untyped=False)
    items = body.get("input")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("type") == "item_reference":
            raise _off("item_reference", _IS_KEPT, "Send the item itself, with `store` off.")
    for part in _blocks(items, nested=False):
        if part.get("file_id") is not None:
            raise _off("file_id", _IS_KEPT, "Send the content itself, as a data URL.")
        if part.get("file_url") is not None or not _is_data(part.get("image_url")):
            raise _off("image_url", _IS_FETCHED, "Send the content itself, as a data URL.")
    return body.get("max_output_tokens")


def _check_chat(body: dict[str, Any]) -> Any:
    if body.get("web_search_options") is not None:
        raise _off("web_search_options", _REACHES_OUT)
    if body.get("n") not in (None, 1):
        raise _off("n", "Only one answer is made at a time", "Leave `n` out.")
    if body.get("store") is not None:
        body["store"] = False
    if body.get("stream") is True:
        # Without it the stream of this API says nothing about what it used.
        options = body.get("stream_options")
        body["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    _check_tools(body.get("tools"), ("function", "custom"), untyped=False)
    for part in _blocks(body.get("messages"), nested=False):
        file = part.get("file")
        if isinstance(file, dict) and file.get("file_id") is not None:
            raise _off("file_id", _IS_KEPT, "Send the content itself, as a data URL.")
        for name in ("image_url", "video_url", "input_image"):
            link = part.get(name)
            if not _is_data(link.get("url") if isinstance(link, dict) else link):
                raise _off(name, _IS_FETCHED, "Send the content itself, as a data URL.")
    limits = [
        limit
        for limit in (body.get("max_tokens"), body.get("max_completion_tokens"))
        if isinstance(limit, int)
    ]
    return max(limits, default=None)


def _blocks(messages: Any, *, nested: bool) -> Iterator[dict[str, Any]]:
    """The parts that messages consist of; with ``nested`` also those inside a tool's result or a document."""
    open_lists: list[Any] = []
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            yield message
            open_lists += [message.get("content"), message.get("output")]
    while open_lists:
        parts = open_lists.pop()
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, dict):
                continue
            yield part
            if nested:
                open_lists.append(part.get("content"))
                source = part.get("source")
                if isinstance(source, dict):
                    open_lists.append(source.get("content"))


def _is_data(link: Any) -> bool:
    return link is None or (isinstance(link, str) and link[:5].lower() == "data:")


def _measure(body: dict[str, Any]) -> tuple[int, int]:
    """How many images and documents there are, and how many bytes of the body they are."""
    count = size = 0
    for part in _blocks(body.get("messages") or body.get("input"), nested=True):
        source, image, file = part.get("source"), part.get("image_url"), part.get("file")
        data: Any = source.get("data") if isinstance(source, dict) else None
        data = data or (image.get("url") if isinstance(image, dict) else image)
        if isinstance(data, str) and part.get("type") in ("image", "input_image", "image_url"):
            count += 1
            size += len(data)
        elif isinstance(file, dict) and isinstance(file.get("file_data"), str):
            count += 1
    return count, size
