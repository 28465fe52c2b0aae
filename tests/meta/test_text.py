"""What no committed file may hold, and what every source file must."""

from __future__ import annotations

import ast
import re
from pathlib import Path

# Joined here, so that this file does not find itself.
MACHINE_PATHS = tuple("/" + name + "/" for name in ("work", "tmp", "root", "mnt"))
HOME_PATHS = tuple("/" + name + "/" for name in ("home", "Users"))
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("pypi", "nvidia", "com"),
        ("download", "pytorch", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
    )
)
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
LONGEST = 400
BINARY = {
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".npy",
    ".npz",
    ".zip",
    ".onnx",
    ".safetensors",
    ".parquet",
    ".tar",
}


def lines_with(files: list[Path], pattern: str) -> list[str]:
    """`file:line: text` of every line that the pattern is found in."""
    found = []
    for file in files:
        if file.suffix in BINARY:
            continue
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            if re.search(pattern, line):
                found.append(f"{file}:{number}: {line.strip()[:120]}")
    return found


def test_no_file_names_a_folder_of_one_machine(tracked: list[Path]) -> None:
    # A path starts a word: `https://host/home/` or `a/tmp/b` are none of ours.
    start = r"(?<![\w./-])"
    assert lines_with(tracked, f"{start}({'|'.join(MACHINE_PATHS)})") == []
    assert re.search(f"{start}({'|'.join(MACHINE_PATHS)})", "open('" + MACHINE_PATHS[0] + "x')")
    # A test may need the home of some user, to prove that it does not get out.
    shipped = [f for f in tracked if "tests" not in f.parts]
    assert lines_with(shipped, f"{start}({'|'.join(HOME_PATHS)})") == []


def test_only_benchmarks_may_know_a_folder_beside_the_checkout(tracked: list[Path]) -> None:
    elsewhere = [f for f in tracked if not {"benchmarks", "tests"} & set(f.parts)]
    assert lines_with(elsewhere, re.escape("../" + "shared")) == []


def test_no_file_names_a_package_registry(tracked: list[Path]) -> None:
    assert lines_with(tracked, "|".join(map(re.escape, HOSTS))) == []


def test_no_file_says_that_it_is_unfinished(tracked: list[Path]) -> None:
    assert lines_with(tracked, UNFINISHED.pattern) == []


def test_every_python_file_says_what_it_is_for(tracked: list[Path]) -> None:
    files = [f for f in tracked if f.suffix == ".py"]
    assert len(files) > 20
    silent = [str(f) for f in files if not (ast.get_docstring(ast.parse(f.read_text("utf-8"))) or "").strip()]
    assert silent == []


def test_no_source_file_is_too_long_to_read(tracked: list[Path], root: Path) -> None:
    sources = [f for f in tracked if f.suffix == ".py" and f.relative_to(root).parts[0] != "tests"]
    long = {str(f): n for f in sources if (n := len(f.read_text("utf-8").splitlines())) > LONGEST}
    assert long == {}


def test_no_file_name_says_nothing(tracked: list[Path]) -> None:
    vague = {"utils", "util", "helpers", "common", "misc", "core"}
    assert [str(f) for f in tracked if f.suffix == ".py" and f.stem.strip("_") in vague] == []


def test_text_ends_with_one_newline_and_has_no_carriage_returns(tracked: list[Path]) -> None:
    texts = [f for f in tracked if f.suffix in {".py", ".md", ".toml", ".yml", ".json", ".txt"}]
    contents = {str(f): f.read_bytes() for f in texts}
    assert [name for name, data in contents.items() if b"\r" in data] == []
    ragged = [n for n, data in contents.items() if data and (not data.endswith(b"\n") or data.endswith(b"\n\n"))]
    assert ragged == []


def test_the_licence_is_apache_2_in_full(root: Path) -> None:
    text = (root / "LICENSE").read_text("utf-8")
    assert "Version 2.0, January 2004" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert "9. Accepting Warranty or Additional Liability." in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


def test_constraints_are_exact_pins_and_nothing_else(root: Path) -> None:
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[\w.+!]+", line)] == []
    assert not any(line.startswith("edgemim") for line in pins)
    assert pins == sorted(pins, key=lambda pin: pin.split("==")[0])
