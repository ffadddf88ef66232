"""The tutorials do what they say: their commands run on real clips, and print what stands below them."""

import pytest

from tests.docs_pages import LINK, anchors_of
from tests.test_readme import FILE
from tests.tutorials import FOLDER, PAGES, ROOT, carry_out, differing, read_steps


def assert_carried_out(page, folder, *, until=None):
    steps = read_steps(page.read_text(encoding="utf-8"))
    assert any(step.file for step in steps)
    ran = list(carry_out(steps, folder, until=until))
    assert len(ran) >= 2
    wrong = {step.text: differing(step.output, printed) for step, printed in ran}
    assert {text: lines for text, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_goes_as_its_page_says(page, tmp_path):
    assert_carried_out(page, tmp_path, until="cvft run")


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_goes_to_its_end_as_its_page_says(page, tmp_path):
    assert_carried_out(page, tmp_path)


@pytest.mark.parametrize("page", [FOLDER / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_and_files_of_a_tutorial_are_there(page):
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        assert (page.parent / name).exists(), link
        assert not anchor or anchor in anchors_of(page.parent / name), link
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []


def test_every_tutorial_is_listed_and_states_what_each_command_prints():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(PAGES) == 3
    for page in PAGES:
        assert f"({page.name})" in listed
        steps = read_steps(page.read_text(encoding="utf-8"))
        commands = [step for step in steps if step.file is None]
        assert sum(step.text.startswith("cvft run") for step in commands) == 1
        assert all(step.output for step in commands if step.text.startswith(("cvft run", "cvft check", "cat", "head")))


@pytest.mark.parametrize(
    ("stated", "printed", "is_alike"),
    [
        ("interval  0.0%  100.0%  99", "interval  0.0%  90.9%  99", True),
        ("interval  0.0%  100.0%  99", "interval  0.0%  50.0%  99", False),
        ("374 rows, 64 clips", "374 rows, 63 clips", False),
        ("within 3.3e-07 of", "within 1.0e-06 of", True),
        ("took 1.5 s", "took 1.6 s", True),
        ("took 1.5 s", "took 15.0 s", False),
        ("from 2 to 7", "from 2 to 6", False),
        ("merged   runs/when", "adapter  runs/when", False),
    ],
)
def test_outputs_are_compared_by_what_may_differ(stated, printed, is_alike):
    assert (differing([stated], [printed]) == []) is is_alike
    assert differing([stated], []) == ["1 lines are stated, 0 came"]
