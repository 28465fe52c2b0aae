"""Every placement keeps the contract of `Placement`, on a transformer block and on a convnet."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from edgemim.errors import EdgemimError
from edgemim.quantize.insert import insert_qdq
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.qdq import check_qdq
from edgemim.quantize.recipe import place

TARGETS = ("x86", "jetson")


@pytest.fixture(params=["block", "convnet"])
def model(request, block_of, convnet):
    return block_of() if request.param == "block" else convnet


@pytest.fixture(params=TARGETS)
def target(request):
    return request.getfixturevalue(request.param)


each_placement = pytest.mark.parametrize("name", PLACEMENTS.names())


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _quantized(model, name, target):
    units = place(model, name, target).units
    thresholds = {site.key: 2.0 for unit in units for site in unit.sites}
    return insert_qdq(model, units, thresholds, unsigned="uint8" in target.activation_dtypes)


@each_placement
def test_the_graph_stays_as_it_is(name, model, target):
    before = _bytes(model)
    place(model, name, target)
    assert _bytes(model) == before


@each_placement
def test_units_and_sites_have_names_of_their_own(name, model, target):
    units = place(model, name, target).units
    names = [unit.name for unit in units]
    keys = [site.key for unit in units for site in unit.sites]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    assert all(unit.sites and unit.kind for unit in units)


@each_placement
def test_units_are_in_the_graph_s_order(name, model, target):
    order = [node.name for node in model.graph]
    first = [
        min(order.index(reader) for site in unit.sites for reader, _ in site.readers)
        for unit in place(model, name, target).units
    ]
    assert first == sorted(first)


@each_placement
def test_a_site_names_what_its_readers_read(name, model, target):
    nodes = {node.name: node for node in model.graph}
    for unit in place(model, name, target).units:
        for site in unit.sites:
            for reader, position in site.readers:
                assert nodes[reader].inputs[position].name == site.value


@each_placement
def test_what_was_not_placed_is_remarked_when_nothing_was(name, model, target):
    placed = place(model, name, target)
    assert placed.units or placed.remarks


@each_placement
def test_the_result_is_a_valid_graph_that_every_target_takes(name, model, target):
    units = place(model, name, target).units
    proto = ir.to_proto(_quantized(model, name, target))
    onnx.checker.check_model(proto, full_check=True)
    if units:
        integers = {dtype for found in check_qdq(proto).values() for dtype in found}
        assert integers <= set(target.activation_dtypes)
    else:
        with pytest.raises(EdgemimError, match="nothing to quantize"):
            check_qdq(proto)


@each_placement
def test_new_nodes_and_values_say_what_they_are(name, model, target):
    known = {node.name for node in model.graph}
    sites = {site.key: site for unit in place(model, name, target).units for site in unit.sites}
    _quantized(model, name, target)
    for node in model.graph:
        assert all(value.shape is not None and value.dtype is not None for value in node.outputs)
        if node.name not in known:
            site = sites[node.metadata_props["edgemim.site"]]
            assert node.metadata_props["edgemim.module"] == site.module


@each_placement
def test_two_runs_give_the_same_bytes(name, model, target):
    copies = [ir.from_proto(ir.to_proto(model)) for _ in range(2)]
    assert len({_bytes(_quantized(copy, name, target)) for copy in copies}) == 1


def test_a_tensor_has_one_key_in_all_placements(model, target):
    meaning = {}
    for name in PLACEMENTS.names():
        for unit in place(model, name, target).units:
            for site in unit.sites:
                known = meaning.setdefault(site.key, site)
                assert (known.value, known.axis, known.unsigned) == (site.value, site.axis, site.unsigned)


@each_placement
def test_units_and_keys_are_the_same_in_fp32_and_fp16(name, block_of, target):
    full, half = (place(block_of(half=half), name, target).units for half in (False, True))
    assert [unit.name for unit in full] == [unit.name for unit in half]
    assert [site.key for unit in full for site in unit.sites] == [site.key for unit in half for site in unit.sites]
