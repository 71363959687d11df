"""What an error says, and the exit code it stands for."""

from pathlib import Path

import pytest

from builder.errors import (
    FetchError,
    HostError,
    InputError,
    Mark,
    PibuildError,
    Problem,
    StepError,
    VerdictError,
)

MARK = Mark(file=Path("recipes/golden.yaml"), line=12, column=7)


def test_every_class_has_its_own_exit_code() -> None:
    classes = (PibuildError, InputError, HostError, StepError, FetchError, VerdictError)
    assert [error.exit_code for error in classes] == [1, 2, 3, 4, 5, 6]


def test_a_mark_is_what_editors_jump_to() -> None:
    assert str(MARK) == "recipes/golden.yaml:12:7"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(message="no such key"), "no such key"),
        (Problem(message="no such key", mark=MARK), "recipes/golden.yaml:12:7: no such key"),
        (Problem(message="bad", mark=MARK, hint="drop it"), "recipes/golden.yaml:12:7: bad\n    hint: drop it"),
    ],
)
def test_a_problem_says_where_what_and_how_to_mend_it(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_an_input_error_holds_every_problem_in_order() -> None:
    problems = (Problem(message="first", hint="mend"), Problem(message="second", mark=MARK))
    error = InputError(*problems)
    assert error.problems == problems
    assert str(error) == "first\n    hint: mend\nrecipes/golden.yaml:12:7: second"


def test_a_hint_is_a_line_of_its_own() -> None:
    assert str(HostError("zstd is not installed", hint="sudo apt-get install zstd")) == (
        "zstd is not installed\nhint: sudo apt-get install zstd"
    )
    assert str(HostError("zstd is not installed")) == "zstd is not installed"
