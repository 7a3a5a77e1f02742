from pathlib import Path

import pytest

from kaspi_sandbox import rules
from kaspi_sandbox.rules import COURSES, NORMAL, Course, Life, ReplyForm, course_for, plan

SCRIPTED = [course for course in COURSES if course is not NORMAL]


@pytest.mark.parametrize("course", SCRIPTED, ids=lambda course: course.name)
def test_each_course_is_reached_by_its_phone_and_by_its_tiyn(course: Course) -> None:
    assert course_for(f"7701000{course.phone_ending}", 10_000) is course
    assert course_for(None, 10_000 + (course.number or 0)) is course
    assert course_for("77015211545", 10_000 + (course.number or 0)) is course


def test_the_phone_goes_before_the_amount() -> None:
    assert course_for("77010009013", 10_011).name == "declines"


@pytest.mark.parametrize("tiyn", [0, *range(1, 11), 20, 25, 50, 75, *range(90, 100)])
def test_amounts_of_everyday_belong_to_no_course(tiyn: int) -> None:
    assert course_for("77015211545", 1_750_000 + tiyn) is NORMAL


def test_names_and_numbers_are_unique() -> None:
    assert len({course.name for course in COURSES}) == len(COURSES)
    assert len({course.number for course in COURSES}) == len(COURSES)


def test_every_reply_and_every_life_has_a_course() -> None:
    assert {course.reply for course in COURSES} == set(ReplyForm)
    assert {course.life for course in COURSES} == set(Life)


def test_every_code_that_the_table_uses_has_a_message() -> None:
    assert {course.code for course in COURSES if course.code is not None} <= rules.MESSAGES.keys()


@pytest.mark.parametrize("life", Life)
@pytest.mark.parametrize("link", [False, True])
def test_every_life_begins_as_the_provider_begins_it(life: Life, *, link: bool) -> None:
    steps = plan(life, link=link, pay_after_s=6)
    assert (steps[0].after_s, steps[0].status) == (0, "QrTokenCreated" if link else "Wait")
    assert [step.after_s for step in steps] == sorted(step.after_s for step in steps)


def test_the_documentation_shows_the_table_as_it_is() -> None:
    docs = Path(__file__).parents[2] / "docs" / "sandbox.md"
    assert rules.markdown_table() in docs.read_text(encoding="utf-8")
