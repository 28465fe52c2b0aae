"""The runtime stage imports with the base install alone; it runs on boards that have no more."""

from __future__ import annotations

import subprocess
import sys

# Everything that an extra installs, and what those bring along.
BLOCKED = (
    "torch", "torchvision", "timm", "lightning", "datasets", "sklearn", "onnx", "onnxscript", "onnx_ir", "nncf",
    "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "scipy", "matplotlib", "pandas",
)  # fmt: skip

SCRIPT = """
import importlib, pkgutil, sys

# To Python, None is a package that is not there.
sys.modules.update(dict.fromkeys(BLOCKED))
import edgemim.runtime
names = [m.name for m in pkgutil.walk_packages(edgemim.runtime.__path__, "edgemim.runtime.")]
for name in names:
    importlib.import_module(name)
from edgemim.runtime.doctor import diagnose
assert [f for f in diagnose() if f.what == "no backend is installed"]
print(len(names))
"""


def test_every_module_imports_and_the_doctor_runs_without_torch_onnx_and_vendor_packages() -> None:
    script = f"BLOCKED = {BLOCKED!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
