import pytest

from openinspect.testing.templates import (
    MAX_WORDS,
    TemplateError,
    check,
    render,
    render_pattern,
    render_text,
    render_tree,
)


def test_holes_are_filled():
    assert render("a {{x}} b {{ y | lower }}", {"x": "1", "y": "ABC"}) == "a 1 b abc"


def test_a_whole_hole_keeps_its_type():
    assert render("{{n | number}}", {"n": "12"}) == 12
    assert render("{{j | parsed}}", {"j": '{"a": [1]}'}) == {"a": [1]}
    assert render("{{n | number}}\n", {"n": "12"}) == "12\n"


def test_filters_follow_each_other():
    assert render("{{x | unescape | added}}", {"x": r"one\ntwo"}) == "+one\n+two"


def test_an_unknown_name_is_an_error_that_names_it():
    with pytest.raises(TemplateError, match="'wrong'"):
        render("{{wrong}}", {"right": "x"})


def test_a_value_that_a_filter_rejects_is_an_error():
    with pytest.raises(TemplateError, match="number"):
        render("{{x | number}}", {"x": "many"})


def test_words_are_bounded():
    assert render("{{n | words}}", {"n": "3"}) == "word1 word2 word3"
    with pytest.raises(TemplateError, match="at most"):
        render("{{n | words}}", {"n": str(MAX_WORDS + 1)})


def test_values_are_literal_in_patterns():
    assert render_pattern("^{{x}}$", {"x": "a.b"}) == r"^a\.b$"


def test_trees_are_filled():
    assert render_tree({"a": ["{{x}}", 3], "b": {"c": "{{x}}"}}, {"x": "v"}) == {
        "a": ["v", 3],
        "b": {"c": "v"},
    }


def test_unknown_filters_are_found_beforehand():
    with pytest.raises(TemplateError, match="there are"):
        check("{{x | nonsense}}")


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("fix the failing test, please!", "Fix the failing test please"),
        ("", "New session"),
        ("!!!", "New session"),
        ("x" * 200, "New session"),
        ("one two three four five six seven eight", "One two three four five six seven"),
    ],
)
def test_titles_are_short(prompt: str, title: str):
    assert render_text("{{p | title}}", {"p": prompt}) == title


def test_quoteless_is_harmless_in_quotes():
    assert "'" not in render("{{x | quoteless}}", {"x": "a'b`c$(d)\"e"})
    assert render("{{x | quoteless}}", {"x": "f(7) `$x`"}) == "f(7) x"
