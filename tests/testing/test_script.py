from pathlib import Path

import pytest

from openinspect.testing.script import SCRIPTS, ScriptError, load

SMALL = """
name: small
scenarios:
  - name: one
    steps:
      - name: only
        text: Hello
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.yaml")))
def test_shipped_scripts_are_sound(name: str):
    assert load(name).scenarios


def test_a_script_is_read(tmp_path: Path):
    script = load(write(tmp_path, SMALL))
    assert (script.name, script.scenarios[0].steps[0].text) == ("small", "Hello")


def test_included_scenarios_come_first(tmp_path: Path):
    script = load(write(tmp_path, SMALL.replace("scenarios:", "include: [bench]\nscenarios:")))
    assert [scenario.name for scenario in script.scenarios] == ["turn", "one"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "not valid YAML"),
        ("", "the file"),
        ("name: x\nscenarios: []", "scenarios"),
        (SMALL.replace("text: Hello", "texxt: Hello"), "texxt"),
        (SMALL.replace("text: Hello", "when: {prompt: '('}"), "not a regular expression"),
        (SMALL.replace("Hello", "'{{x | nonsense}}'"), "nonsense"),
        (SMALL.replace("text: Hello", "when: {after: nobody}"), "nobody"),
        (SMALL.replace("text: Hello", "fault: {status: 500, cut: true}"), "exactly one"),
        (SMALL.replace("text: Hello", "call: {tool: a}\n        calls: [{tool: b}]"), "either call or calls"),
        (SMALL + "      - name: only\n", "two steps"),
        (SMALL.replace("    steps:", "    each_line: [{line: x}]\n    steps:"), "either steps or each_line"),
    ],
)
def test_a_faulty_script_is_refused_with_the_place(tmp_path: Path, text: str, says: str):
    with pytest.raises(ScriptError, match=r"script\.yaml") as error:
        load(write(tmp_path, text))
    assert says in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ScriptError, match="demo"):
        load("nonsense")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "script.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScriptError, match="can't be read"):
        load(path)
