"""The tree of errors: its drawing, its exit codes, its messages."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from edgemim import errors
from edgemim.errors import DeviceError, EdgemimError, MissingDependencyError, OutputError, first_of

# `├── Name    code   sentence`; without a code it is that of the root.
DRAWN = dict(re.findall(r"^(?:[├└]── )?([A-Z]\w+) {2,}(\d*)", errors.__doc__ or "", re.MULTILINE))
CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, EdgemimError)]


def test_the_drawing_at_the_top_of_the_module_is_the_tree() -> None:
    assert set(DRAWN) == {c.__name__ for c in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_an_edgemim_error_with_the_exit_code_of_its_kind(error: type[EdgemimError]) -> None:
    assert error.exit_code == int(DRAWN[error.__name__] or 2)
    assert error.__doc__


def test_what_the_user_can_mend_ends_with_2_and_what_the_device_did_with_3() -> None:
    assert (OutputError.exit_code, DeviceError.exit_code) == (2, 3)


def test_exit_codes_are_distinct_and_as_documented() -> None:
    codes = {name: code for name, code in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0,
        "EXIT_GATE_MISSED": 1,
        "EXIT_USER": 2,
        "EXIT_DEVICE": 3,
        "EXIT_BUG": 4,
        "EXIT_PREEMPTED": 75,
        "EXIT_INTERRUPTED": 130,
    }


def test_a_missing_package_names_what_needs_it_and_the_command_that_installs_it() -> None:
    error = MissingDependencyError("backend 'openvino'", "openvino", "openvino")
    assert str(error) == (
        "backend 'openvino' needs the package 'openvino', which is not installed; run: pip install 'edgemim[openvino]'"
    )
    assert isinstance(error, ImportError)


def test_a_missing_package_survives_the_way_out_of_a_worker_process() -> None:
    error = MissingDependencyError("source 'digits'", "sklearn", "train")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is MissingDependencyError
    assert str(copy) == str(error)


@pytest.mark.parametrize(("names", "shown"), [([], ""), (["a", "b"], "a; b"), (["a", "b", "c"], "a; b and 1 more")])
def test_of_many_names_the_first_are_shown_and_the_others_counted(names: list[str], shown: str) -> None:
    assert first_of(names, most=2, separator="; ") == shown
