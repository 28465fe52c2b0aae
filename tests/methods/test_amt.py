"""AMT in both forms against a second implementation: what is thrown away, what is remembered, when it is looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build, load_recipe
from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.masking.throwing import ThrowingMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.amt import AMT, AMTSettings, salience
from edgemim.models.adapters.base import QKV
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan
from edgemim.training.assembly import make_method as method_of_run
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

MakeMethod = Callable[..., Method]
# Two visible patches, two masked and two thrown away in each image.
KEEPS, MASKS = [[0, 3], [2, 5], [1, 4]], [[1, 5], [0, 4], [2, 3]]
FORMS = ["mae", "simmim"]
PREFIX = {0: [], 1: ["cls_token"], 2: ["reg_token"], 3: ["cls_token", "reg_token"]}
SHAPES: dict[str, dict[str, Any]] = {
    "class": {},
    "registers": {"reg_tokens": 2},
    "none": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "registers alone": {"reg_tokens": 2, "class_token": False, "global_pool": "avg", "fc_norm": False},
}


def plan() -> MaskPlan:
    role = torch.full((3, 6), DROPPED, dtype=torch.int8)
    role.scatter_(1, torch.tensor(KEEPS), VISIBLE).scatter_(1, torch.tensor(MASKS), MASKED)
    return MaskPlan(role, (2, 3))


def amt(make_method: MakeMethod, **settings: Any) -> AMT:
    """That follows its own attention; of 6 patches 2 are masked and 2 thrown away."""
    masking = ThrowingMasking(mask_ratio=0.34, throw_ratio=0.34, plain_ratio=0.5)
    method = make_method("amt", masking=masking, **settings)
    assert isinstance(method, AMT)
    return method


@pytest.mark.parametrize("shape", ["class", "registers", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    form: str,
    shape: str,
) -> None:
    method = amt(make_method, form=form, backbone=SHAPES[shape])
    step = method(batch, rng, plan())
    step.loss.backward()

    pieces, own, other = reference("masked_autoencoder"), reference("amt"), reference("hpm")
    twins, images, prefix = leaves(method), batch.images.double(), method.adapter.num_prefix
    encoder = part(twins, "model.")
    shape_of: dict[str, Any] = {"patch": 8, "heads": 2, "blocks": 4, "prefix": PREFIX[prefix]}
    if form == "mae":
        decoder = part(twins, "pixels.decoder.")
        table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix))
        errors = []
        for image, keep, masked in zip(images, KEEPS, MASKS, strict=True):
            tokens = pieces.encode(image, keep, encoder, **shape_of)[-1]
            sequence = other.sequence(tokens, keep, masked, decoder, table)
            predicted = other.decode(pieces, sequence, decoder, heads=4, blocks=2)[-2:]
            errors += other.patch_errors(pieces, predicted, image, masked, 8, norm_pix=True)
        loss = torch.stack(errors).sum() / 6
    else:
        token = twins["pixels.mask_token"][0, 0]
        tokens = [
            own.encode_with_mask_tokens(pieces, image, keep, masked, token, encoder, **shape_of)
            for image, keep, masked in zip(images, KEEPS, MASKS, strict=True)
        ]
        loss = own.absolute_loss(pieces, tokens, images, MASKS, part(twins, "pixels.head."), 8)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/pixels"], step.loss.detach(), rtol=0, atol=0)
    assert_same_gradients(method, twins)


@pytest.mark.parametrize(("form", "encoder", "decoder"), [("mae", 1 + 2, 1 + 2 + 2), ("simmim", 1 + 2 + 2, None)])
def test_thrown_patches_reach_no_block_and_no_decoder(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, form: str, encoder: int, decoder: int | None
) -> None:
    method = amt(make_method, form=form)
    seen: dict[str, set[int]] = {"model": set(), "pixels": set()}

    def noting(name: str) -> Callable[..., None]:
        return lambda module, inputs, *_: seen[name].add(inputs[0].shape[1])

    for name, module in method.named_modules():
        if ".blocks." in name and name.rsplit(".", 1)[-1].isdecimal():
            module.register_forward_pre_hook(noting(name.split(".")[0]))
    method(batch, rng, plan())
    assert seen == {"model": {encoder}, "pixels": set() if decoder is None else {decoder}}


@pytest.mark.parametrize("form", FORMS)
def test_thrown_pixels_change_nothing_and_masked_ones_only_the_target(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, form: str
) -> None:
    method = amt(make_method, form=form).eval()

    def painted(role: int) -> Batch:
        where = (plan().role == role).reshape(3, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return dataclasses.replace(batch, images=torch.where(where, torch.full_like(batch.images, 9.0), batch.images))

    clean = method(batch, rng, plan()).loss
    assert torch.equal(method(painted(DROPPED), rng, plan()).loss, clean)
    assert not torch.equal(method(painted(VISIBLE), rng, plan()).loss, clean)
    with torch.no_grad():
        shown = method._tokens(batch.images, plan())
        assert torch.equal(method._tokens(painted(MASKED).images, plan()), shown)
        assert torch.equal(method._tokens(painted(DROPPED).images, plan()), shown)


@pytest.mark.parametrize("form", FORMS)
def test_reconstructions_have_what_was_predicted_where_it_was_masked(
    make_method: MakeMethod, batch: Batch, form: str
) -> None:
    method = amt(make_method, form=form, **({"norm_pix": False} if form == "mae" else {})).eval()
    with torch.no_grad():
        shown = method.reconstruct(batch, plan())
        loss = method(batch, torch.Generator(), plan()).loss
    assert shown is not None
    assert shown.shape == batch.images.shape
    where = plan().mask.reshape(3, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(shown)
    errors = (shown - batch.images)[where]
    mean = errors.abs().mean() if form == "simmim" else errors.square().mean()
    # The same numbers, summed in another order.
    torch.testing.assert_close(mean, loss, rtol=1e-5, atol=0)
    thrown = (plan().role == DROPPED).reshape(3, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert (shown[thrown.expand_as(shown)] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_looks_with_its_class_token_or_else_with_all_patches(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    batch: Batch,
    shape: str,
) -> None:
    method = amt(make_method, backbone={"drop_path_rate": 0.5, **SHAPES[shape]})
    found = method.look(batch.images)
    assert method.model.training
    assert found.dtype == torch.float32
    assert not found.requires_grad
    prefix = PREFIX[method.adapter.num_prefix]
    state = part({name: value.double() for name, value in method.state_dict().items()}, "model.")
    for image, own in zip(batch.images.double(), found, strict=True):
        expected = reference("amt").salience(
            reference("masked_autoencoder"), image, state, patch=8, heads=2, blocks=4, prefix=prefix
        )
        # float32 against float64; the range of a head's attention is a few hundredths of it.
        torch.testing.assert_close(own.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_worked_example_of_the_salience() -> None:
    # Keys of width 1: scores are the query's times the key's, and its logits log 1, log 2, log 5 for three patches and
    # log 2 for the class token: attention 1/10, 2/10 and 5/10, scaled 0, 1/4 and 1. The second head has equal keys.
    keys = torch.tensor([2.0, 1.0, 2.0, 5.0]).log().view(1, 1, 4, 1)
    keys = torch.cat([keys, torch.ones(1, 1, 4, 1)], dim=1)
    queries = torch.ones(1, 2, 4, 1)
    found = salience(QKV(queries, keys, keys), 1, class_token=True)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.125, 0.5]]))


def test_before_its_first_epoch_it_masks_plainly_and_throws_nothing_away(make_method: MakeMethod, batch: Batch) -> None:
    method = amt(make_method, first_epoch=6.0)
    early, late = batch, dataclasses.replace(batch, epoch=6.0)
    assert method.signals(early) == {}
    drawn = method.draw(early, torch.Generator().manual_seed(0), method.signals(early))
    assert drawn.counts == (3, 3, 0)
    assert set(method.signals(late)) == {"own_attention"}
    drawn = method.draw(late, torch.Generator().manual_seed(0), method.signals(late))
    assert drawn.counts == (2, 2, 2)


def test_until_it_has_looked_all_patches_weigh_alike(make_method: MakeMethod, batch: Batch) -> None:
    weights = amt(make_method, first_epoch=0.0).signals(batch)["own_attention"]
    # Means of ones over shares of cells, whose sums round.
    torch.testing.assert_close(weights, torch.ones(3, 6), rtol=1e-6, atol=0)


def test_what_it_remembers_follows_the_crop(
    make_method: MakeMethod, reference: Callable[[str], ModuleType], batch: Batch
) -> None:
    method = amt(make_method, first_epoch=0.0)
    rows = torch.rand(10, 6, generator=torch.Generator().manual_seed(0))
    method.memory.write(torch.arange(10), rows)
    found = method.signals(batch)["own_attention"]
    assert batch.index is not None
    assert batch.crops is not None
    for weights, index, box, mirrored in zip(
        found, batch.index.tolist(), batch.crops.boxes.tolist(), batch.crops.mirrored.tolist(), strict=True
    ):
        expected = reference("amt").crop_map(rows[index].view(2, 3).double(), box, mirrored, (2, 3)).flatten()
        # Half precision rounds to 11 bits.
        torch.testing.assert_close(weights.double(), expected, rtol=1e-3, atol=1e-6)


def test_what_it_looks_at_is_masked_first_and_what_it_does_not_stays(make_method: MakeMethod, batch: Batch) -> None:
    method = amt(make_method, first_epoch=0.0)
    weights = torch.tensor([1.0, 1.0, 1e-3, 1e-3, 0.0, 0.0])
    method.memory.write(torch.arange(10), weights.expand(10, 6))
    whole = dataclasses.replace(batch, crops=None)
    for seed in range(5):
        drawn = method.draw(whole, torch.Generator().manual_seed(seed), method.signals(whole))
        # Three weights that are 1,000 apart: another order comes in a few thousandths of the draws, and not here.
        assert drawn.role.tolist() == [[MASKED, MASKED, DROPPED, DROPPED, VISIBLE, VISIBLE]] * 3


def test_images_from_elsewhere_are_looked_at_at_once(make_method: MakeMethod, batch: Batch) -> None:
    method = amt(make_method, first_epoch=0.0)
    shown = Batch(batch.images)
    assert torch.equal(method.signals(shown)["own_attention"], method.look(batch.images))
    assert method.signals(dataclasses.replace(shown, epoch=-1.0)) == {}


@pytest.mark.parametrize(
    ("before", "after", "due"),
    [
        (1.9, 2.0, False),  # before the first epoch
        (3.9, 4.0, True),
        (3.9, 4.3, True),  # a batch that spans two epochs
        (4.0, 4.3, False),
        (4.9, 5.1, False),  # no multiple
        (5.5, 6.0, True),
        (3.0, 7.0, True),  # a batch of more than an epoch
    ],
)
def test_a_look_comes_with_each_multiple_from_the_first_epoch_on(
    make_method: MakeMethod, before: float, after: float, due: bool
) -> None:
    assert amt(make_method, first_epoch=3.0, refresh_epochs=2.0).is_due(before, after) is due


def test_decimal_periods_lose_no_look_to_a_rounding(make_method: MakeMethod) -> None:
    # As floats, 3 * 0.7 is less than 2.1, and 0.3 / 0.1 less than 3.
    assert amt(make_method, first_epoch=2.1, refresh_epochs=0.7).is_due(2.0, 2.1)
    tenths = amt(make_method, first_epoch=0.1, refresh_epochs=0.1)
    assert all(tenths.is_due((step - 1) * 64 / 640, step * 64 / 640) for step in range(1, 30))


def test_with_a_masking_that_does_not_ask_it_remembers_nothing(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("amt", masking=RandomMasking(mask_ratio=0.5), first_epoch=0.0)
    assert isinstance(method, AMT)
    assert method.signals(batch) == {}
    assert len(method.memory.rows) == 0
    assert not method.is_due(39.0, 41.0)
    assert method(batch, rng).loss.isfinite()


def test_what_it_throws_away_has_no_memory(make_method: MakeMethod) -> None:
    for form, kept in (("mae", {"decoder"}), ("simmim", {"mask_token", "head"})):
        method = amt(make_method, form=form)
        assert any(name.startswith("memory.") for name in method.state_dict())
        assert {name.split(".")[1] for name in method.predictor_state()} == kept
        assert {name.split(".")[0] for name in method.predictor_state()} == {"pixels"}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_not_decayed_in_the_simmim_form(make_method: MakeMethod, form: str) -> None:
    method = amt(make_method, form=form)
    names = {id(p): name for name, p in method.named_parameters()}
    groups = parameter_groups(method, TrainingSettings(steps=1, weight_decay=0.05))
    decayed = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] > 0}
    tokens = {"model.cls_token", "model.pos_embed"} | ({"pixels.mask_token"} if form == "simmim" else set())
    assert tokens <= set(names.values())
    assert tokens & decayed == (set() if form == "simmim" else tokens)


@pytest.mark.parametrize(
    ("recipe", "plain", "counts"),
    [
        ("amt", (49, 147, 0), (30, 88, 78)),
        ("amt-simmim", (27 * 4, 22 * 4, 0), (14 * 4, 22 * 4, 13 * 4)),
        ("amt-small", (16, 48, 0), (10, 28, 26)),
    ],
)
def test_the_recipes_have_the_papers_counts(
    rng: torch.Generator, recipe: str, plain: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    values = load_recipe(recipe)
    values["backbone"] |= {"depth": 1, "embed_dim": 24, "num_heads": 3}
    method = method_of_run(build(RunSettings, values))
    images = torch.zeros(2, 3, *method.adapter.size)
    early, late = Batch(images), Batch(images, epoch=method.settings.first_epoch)
    assert method.draw(early, rng, method.signals(early)).counts == plain
    assert method.draw(late, rng, method.signals(late)).counts == counts


def test_the_defaults_are_the_papers() -> None:
    assert AMTSettings() == AMTSettings(
        form="mae",
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        norm_pix=True,
        first_epoch=40.0,
        refresh_epochs=40.0,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "beit"}, r"^method\.form must be one of mae, simmim; got 'beit'$"),
        ({"first_epoch": -1.0}, r"^method\.first_epoch must not be negative; got -1\.0$"),
        ({"refresh_epochs": 0.0}, r"^method\.refresh_epochs must be more than 0; got 0\.0$"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AMTSettings(**settings)


def test_a_masking_that_asks_for_its_attention_names_the_method_that_has_it(make_method: MakeMethod) -> None:
    expected = "needs 'own_attention', which method 'mae' does not give; methods that do: amt"
    with pytest.raises(ConfigError, match=expected):
        make_method("mae", masking=ThrowingMasking())


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_the_loss_in_float32(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, form: str
) -> None:
    method = amt(make_method, form=form, first_epoch=0.0)
    exact = method(batch, rng, plan()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, plan()).loss
        weights = method.signals(batch)["own_attention"]
    assert loss.dtype == weights.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    torch.testing.assert_close(weights, torch.ones(3, 6), rtol=1e-6, atol=0)
