"""What a call of a model costs, in US dollars.

Prices are those of genai-prices as installed, from its bundled data: nothing is fetched. The catalogue's own price comes first, for models that
it does not know. A price that nobody knows is ``None``, never 0. genai-prices takes most of a second to import, so that is done at the first
price, or by ``warm`` (in a thread, when the server starts).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from .catalogue import Model, Price, provider

_MILLION = Decimal(1_000_000)
_MICRO = Decimal("0.000001")  # a millionth of a dollar, which is what the columns hold


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. ``input_tokens`` is all of the input: what was read from and written to the provider's cache is part of it."""

    input_tokens: int = 0
    output_tokens: int = 0
    """With the thoughts, shown or not."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Part of ``cache_write_tokens``: kept for an hour, at a higher price."""

    def sane(self) -> Usage:
        """The same with nothing negative and no part larger than its whole."""
        read, write = max(0, self.cache_read_tokens), max(0, self.cache_write_tokens)
        return Usage(
            input_tokens=max(0, self.input_tokens, read + write),
            output_tokens=max(0, self.output_tokens),
            cache_read_tokens=read,
            cache_write_tokens=write,
            cache_write_1h_tokens=min(max(0, self.cache_write_1h_tokens), write),
        )


def warm() -> None:
    """Import the prices now. Takes most of a second of processor time; call it in a thread."""
    import genai_prices.data_snapshot

    genai_prices.data_snapshot.get_snapshot()


def cost(model: Model, usage: Usage) -> Decimal | None:
    """The price of a call, to a millionth of a dollar; None when the model's price is not known."""
    usage = usage.sane()
    if model.price is not None:
        return _own_price(model.price, usage)
    owner = provider(model.provider)
    if owner is None or owner.prices is None:
        return None
    import genai_prices

    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )
    try:
        price = genai_prices.calc_price(counted, model.bare_id, provider_id=owner.prices)
    except LookupError:
        return None
    return price.total_price.quantize(_MICRO)


def highest_cost(model: Model, input_tokens: int, output_tokens: int) -> Decimal | None:
    """The most that a call of this size can cost: all of its input at the dearest kind of input."""
    plain = cost(model, Usage(input_tokens, output_tokens))
    if plain is None:
        return None
    # An hour in the cache is the dearest place for input that there is.
    kept = Usage(
        input_tokens, output_tokens, cache_write_tokens=input_tokens, cache_write_1h_tokens=input_tokens
    )
    return max(plain, cost(model, kept) or plain)


def _own_price(price: Price, usage: Usage) -> Decimal:
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    dollars = (
        plain * price.input
        + usage.cache_read_tokens * read
        + usage.cache_write_tokens * write
        + usage.output_tokens * price.output
    )
    return (dollars / _MILLION).quantize(_MICRO)
