"""Names of sites and units."""

from __future__ import annotations

import pytest

from edgemim.quantize.sites import Site, Unit, block_of


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("blocks.7.mlp.fc2", "blocks.7"),
        ("layers.1.blocks.0.attn", "layers.1.blocks.0"),
        ("blocks.3.add#1", "blocks.3"),
        ("patch_embed.proj", ""),
        ("head", ""),
        ("", ""),
    ],
)
def test_a_block_is_the_name_up_to_its_last_number(module, block):
    assert block_of(module) == block
    site = Site(module=module, role="input", value="x", readers=(("node", 0),))
    assert Unit(name=module, kind="any", sites=(site,)).block == block


def test_a_key_is_module_and_role_and_only_weights_have_an_axis():
    data = Site(module="blocks.0.mlp.fc1", role="input.1", value="x", readers=(("node", 0),))
    weight = Site(module="blocks.0.mlp.fc1", role="weight", value="w", readers=(("node", 1),), axis=0)
    assert data.key == "blocks.0.mlp.fc1:input.1"
    assert (data.is_weight, weight.is_weight) == (False, True)
