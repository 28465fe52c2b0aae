"""From the images to the engine: one step per stage, oldest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.markup import Html, join, tag
from edgemim.report.page import Part, moment
from edgemim.report.source import Source
from edgemim.runtime.report.check_page import bundles_of

_SHORT = 12
_LEAD = "Every stage recorded what it read. A fingerprint is the start of a sha256: equal ones are the same files."
# Of a stage's record: where a fact stands, and what it is called.
_FACTS = (
    (("data", "spec"), "images"),
    (("data", "images"), "number of images"),
    (("data", "fingerprint"), "images' fingerprint"),
    (("teacher", "architecture"), "teacher"),
    (("teacher", "sha256"), "teacher's weights"),
    (("teacher", "licence"), "teacher's licence"),
    (("settings", "seed"), "seed"),
    (("result", "steps"), "steps"),
    (("scores", "top1"), "top-1"),
    (("checkpoint",), "checkpoint"),
    (("settings", "opset"), "opset"),
    (("quantizer",), "quantizer"),
    (("calibration", "images"), "calibration images"),
    (("source",), "from"),
    (("onnx",), "onnx"),
    (("target",), "target"),
    (("bundle",), "bundle"),
    (("versions", "torch"), "torch"),
    (("versions", "onnxruntime"), "onnxruntime"),
)


def provenance_part(source: Source) -> Part:
    """The chain, and the engine at its end."""
    content = chain(source.artifact.provenance, *_engine(source))
    return Part(name="provenance", title="From images to engine", content=content)


def chain(provenance: Sequence[Mapping[str, Any]], *last: Html) -> Html:
    """A list of the stages, and what comes after them."""
    steps = [*map(_step, provenance), *last]
    return join([tag("p", _LEAD, class_="lead"), tag("ol", *steps, class_="chain", role="list")])


def _step(record: Mapping[str, Any]) -> Html:
    found = [(name, value) for path, name in _FACTS if (value := _at(record, path)) not in (None, "")]
    words = ", ".join(f"{name} {_shown(value)}" for name, value in found)
    when = moment(record.get("time"))
    title = tag("p", tag("b", record.get("stage", "")), f"  {when}, edgemim {record.get('edgemim', '')}")
    return tag("li", title, tag("p", words) if words else Html(""))


def _engine(source: Source) -> list[Html]:
    """What ships: the file, what runs it, and the compiled engine where there is one."""
    report = source.report
    if report.get("chosen") is None:
        return []
    chosen = (report["chosen"], report["chosen_backend"])
    row = next(row for row in report["candidates"] if (row["name"], row["backend"]) == chosen)
    engines = [
        f"{name} ({_shown(file.sha256)})" for name, file in source.artifact.files.items() if name[:7] == "engine/"
    ]
    words = (
        f"{row['file']} of bundle {_shown(bundles_of(report)[0]['fingerprint'])}, by {row['backend']} {row['version']}"
    )
    if engines:
        words += f", compiled: {', '.join(engines)}"
    return [tag("li", tag("p", tag("b", "engine"), f"  {row['name']} on {row['backend']}"), tag("p", words))]


def _at(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str | int | float) else None


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text[:_SHORT] if len(text) == 64 and " " not in text and "/" not in text else text
