from decimal import Decimal

import pytest

from openinspect.models.catalogue import Model, find, models
from openinspect.models.prices import Usage, cost, highest_cost


@pytest.mark.parametrize("model", models(), ids=lambda model: model.id)
def test_every_model_of_the_catalogue_has_a_price(model: Model):
    price = cost(model, Usage(1_000_000, 100_000))
    assert price is not None and price > 0
    highest = highest_cost(model, 1_000_000, 100_000)
    assert highest is not None and highest >= price


def test_what_comes_from_the_cache_is_cheaper_and_what_goes_into_it_dearer():
    opus = find("claude-opus-5")
    assert cost(opus, Usage(100_000, 10_000)) == Decimal("0.75")
    assert cost(opus, Usage(100_000, 10_000, cache_read_tokens=100_000)) == Decimal("0.30")
    assert cost(opus, Usage(100_000, cache_write_tokens=100_000)) == Decimal("0.625")
    assert cost(opus, Usage(100_000, cache_write_tokens=100_000, cache_write_1h_tokens=100_000)) == Decimal(1)


def test_a_price_of_the_catalogue_counts_the_cache_as_well():
    glm = find("opencode/glm-5")
    assert cost(glm, Usage(1_000_000, 1_000_000)) == Decimal("4.2")
    assert cost(glm, Usage(1_000_000, cache_read_tokens=1_000_000)) == Decimal("0.2")


def test_a_price_that_nobody_knows_is_none():
    unknown = find("gpt-5.4").model_copy(update={"bare_id": "gpt-of-another-day", "price": None})
    assert cost(unknown, Usage(1, 1)) is None
    assert highest_cost(unknown, 1, 1) is None


def test_nonsense_from_a_provider_does_not_lower_the_price():
    opus = find("claude-opus-5")
    assert cost(opus, Usage(-5, -5)) == 0
    assert cost(opus, Usage(10, 0, cache_read_tokens=1_000_000)) == Decimal("0.5")


def test_a_tiny_call_is_not_free():
    assert cost(find("claude-haiku-4-5"), Usage(1, 1)) == Decimal("0.000006")
