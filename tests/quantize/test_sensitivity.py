"""What each unit costs, on a model whose costs are known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.errors import ConfigError
from edgemim.quantize.recipe import Recipe, place
from edgemim.quantize.sensitivity import damage, measure_sensitivity
from edgemim.runtime.targets import TARGETS

X86 = TARGETS.get("x86")


def _images(count=4):
    return [np.random.default_rng(i).standard_normal((1, 3, 16, 16)).astype(np.float32) for i in range(count)]


def _recipe(model, **wrong):
    """Ranges of 8 for all activations, which fit values around 1 with steps of 1/16; others by site key."""
    sites = [s for unit in place(ir.from_proto(model), "linear", X86).units for s in unit.sites if not s.is_weight]
    return Recipe(placement="linear", thresholds={site.key: wrong.get(site.key, 8.0) for site in sites})


def test_a_unit_with_a_ruined_range_is_named_first(attention_model):
    recipe = _recipe(attention_model, **{"mlp.down:input": 1e-3})
    found = measure_sensitivity(attention_model, recipe, X86, _images(), classifies=True)
    ranked = found.ranked()
    assert ranked[0].unit == "mlp.down"
    # Everything but it in INT8 is nearly right, it alone is as wrong as all together.
    assert ranked[0].disabled.noise < 0.1 * found.everything.noise
    assert ranked[0].enabled.noise == pytest.approx(found.everything.noise, rel=0.1)
    assert all(entry.enabled.noise < 0.1 * found.everything.noise for entry in ranked[1:])


def test_units_are_named_by_module_kind_and_block(attention_model):
    found = measure_sensitivity(attention_model, _recipe(attention_model), X86, _images(), classifies=True)
    assert [(entry.unit, entry.kind, entry.block) for entry in found.units][:3] == [
        ("attn.q", "q", ""),
        ("attn.k", "k", ""),
        ("attn.v", "v", ""),
    ]
    assert found.images == 4


def test_the_number_of_workers_changes_nothing(attention_model):
    recipe, images = _recipe(attention_model), _images()
    one, three = (
        measure_sensitivity(attention_model, recipe, X86, images, classifies=True, workers=workers)
        for workers in (1, 3)
    )
    assert one == three


def test_a_search_that_was_stopped_goes_on_where_it_was(attention_model, tmp_path):
    recipe, images, state = _recipe(attention_model), _images(), tmp_path / "state.json"
    seen = []

    def stop_after_three(done, _total):
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(
            attention_model, recipe, X86, images, classifies=True, state=state, progress=stop_after_three
        )
    rest = []
    again = measure_sensitivity(
        attention_model, recipe, X86, images, classifies=True, state=state, progress=lambda done, _: rest.append(done)
    )
    assert rest[0] == 4
    assert again == measure_sensitivity(attention_model, recipe, X86, images, classifies=True)


def test_a_state_of_another_model_is_not_used(attention_model, tmp_path):
    recipe, images, state = _recipe(attention_model), _images(), tmp_path / "state.json"
    measure_sensitivity(attention_model, recipe, X86, images, classifies=True, state=state)
    other = onnx.ModelProto()
    other.CopyFrom(attention_model)
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "up_weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, "up_weight"))
    done = []
    measure_sensitivity(
        other, recipe, X86, images, classifies=True, state=state, progress=lambda count, _: done.append(count)
    )
    assert done[0] == 1


def test_damage_of_known_outputs():
    reference = np.array([[3.0, 0.0, -3.0], [0.0, 1.0, -1.0]], dtype=np.float32)
    # A constant added to all outputs of an image is no noise; swapping the first two of the second image is.
    outputs = np.array([[4.0, 1.0, -2.0], [1.0, 0.0, -1.0]], dtype=np.float32)
    found = damage(outputs, reference, classifies=True)
    assert found.noise == pytest.approx(2 / 20)
    assert found.agreement == 0.5
    assert damage(reference, reference, classifies=False).agreement is None
    assert damage(reference, reference, classifies=True).cosine == pytest.approx(1)


def test_no_image_is_refused(attention_model):
    with pytest.raises(ConfigError, match="at least one image"):
        measure_sensitivity(attention_model, _recipe(attention_model), X86, [], classifies=True)
