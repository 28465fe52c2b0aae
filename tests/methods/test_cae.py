"""CAE against a second implementation, what its parts know of hidden patches, its tokenizer, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from timm.models.vision_transformer import LayerScale
from torch import Tensor

from edgemim.config import build, load_recipe
from edgemim.errors import CheckpointError, ConfigError
from edgemim.masking import MASKINGS
from edgemim.methods._base import Batch, Method
from edgemim.methods._cae import complement
from edgemim.methods.cae import CAE, CAESettings
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.tokenizer import Tokenizer
from edgemim.preprocess import Preprocess

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3, 4], [1, 2, 5], [1, 4, 5]]
HIDDEN = [[1, 2, 5], [0, 3, 4], [0, 2, 3]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
UNEVEN = [[0, 3], [2, 5], [1, 4]]
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}
COLOURS = Preprocess(size=(16, 24), mean=(0.5, 0.4, 0.6), std=(0.2, 0.25, 0.15))

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "the paper's depths": {"regressor_depth": 4, "decoder_depth": 4, "decoder_width": 0, "decoder_heads": 2},
    "no alignment": {"alignment_weight": 0.0},
    "another width": {"decoder_width": 24, "decoder_heads": 3, "regressor_depth": 2, "alignment_weight": 0.5},
    "one block and a head": {"regressor_depth": 1, "decoder_depth": 0},
    "no class token": {"backbone": NO_CLASS, "regressor_depth": 2},
    "registers": {"backbone": {"reg_tokens": 2}, "regressor_depth": 2},
}


@pytest.mark.parametrize("keeps", [KEEPS, UNEVEN], ids=["half hidden", "more hidden"])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    keeps: list[list[int]],
) -> None:
    method = make_method("cae", **settings)
    step = method(batch, rng, MaskPlan.from_keep_ids(torch.tensor(keeps), (2, 3)))
    step.loss.backward()

    pieces, own, twins = reference("masked_autoencoder"), reference("cae"), leaves(method)
    images, guessed, latents, pictures = batch.images.double(), [], [], []
    for image, keep in zip(images, keeps, strict=True):
        hidden = [i for i in range(6) if i not in keep]
        guess, decoded = guess_and_decode(method, reference, part, twins, image, keep)
        guessed.append(guess)
        latents.append(encode(method, reference, part, twins, image, hidden)[method.adapter.num_prefix :])
        pictures.append(dict(zip(hidden, decoded, strict=True)))
    pixels = pieces.pixel_loss(pictures, images, keeps, 8, True)
    weight = settings.get("alignment_weight", 0.2)
    alignment = own.squared(guessed, latents)
    loss = pixels + weight * alignment
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/pixels"].double(), pixels.detach(), rtol=1e-5, atol=0)
    assert ("loss/alignment" in step.metrics) == (weight > 0)
    if weight:
        unscaled = step.metrics["loss/alignment_unscaled"].double()
        torch.testing.assert_close(unscaled, alignment.detach(), rtol=1e-5, atol=0)
    set_aside_what_a_softmax_does_not_see(method, twins)
    assert_same_gradients(method, twins)


def encode(
    method: Method,
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    twins: dict[str, Tensor],
    image: Tensor,
    seen: list[int],
) -> Tensor:
    """Latents [P + N, width] of the patches `seen`."""
    pieces = reference("masked_autoencoder")
    shape = {"patch": 8, "heads": 2, "blocks": 4, "prefix": PREFIX[method.adapter.num_prefix]}
    tokens: Tensor = pieces.encode(image, seen, part(twins, "model."), **shape)[-1]
    if "latents.norm.weight" in twins:
        tokens = pieces.layer_norm(tokens, twins, "latents.norm")
    state = part(twins, "latents.project.")
    return pieces.layer_norm(pieces.linear(tokens, state, "0"), state, "1") if state else tokens


def guess_and_decode(
    method: Method,
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    twins: dict[str, Tensor],
    image: Tensor,
    keep: list[int],
) -> tuple[Tensor, Tensor]:
    """Of the patches that are not kept: their latents, and what these are decoded to."""
    pieces, own, settings = reference("masked_autoencoder"), reference("cae"), method.settings
    hidden = [i for i in range(6) if i not in keep]
    seen = encode(method, reference, part, twins, image, keep)[method.adapter.num_prefix :]
    table = torch.as_tensor(reference("positions").sincos_table(seen.shape[1], 2, 3, 0))
    heads = settings.decoder_heads
    regressor, decoder = part(twins, "latents.regressor."), part(twins, "latents.decoder.")
    guess = own.regress(pieces, seen, keep, hidden, table, regressor, heads=heads, blocks=settings.regressor_depth)
    return guess, own.decode(pieces, guess, hidden, table, decoder, heads=heads, blocks=settings.decoder_depth)


def set_aside_what_a_softmax_does_not_see(method: Method, twins: dict[str, Tensor]) -> None:
    """The bias of the keys' norm adds the same to all of a query's products: its gradient is 0 but for rounding."""
    for name, parameter in method.named_parameters():
        if name.endswith("norm_keys.bias"):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() < 1e-6
            parameter.grad = twins[name].grad = None


def test_codes_of_a_tokenizer_are_the_target_where_its_file_is_given(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    tokenizer_file: Path,
) -> None:
    method = make_method("cae", target="tokens", tokenizer=str(tokenizer_file))
    assert isinstance(method, CAE)
    method.normalised_by(COLOURS)
    step = method(batch, rng, PLAN)
    step.loss.backward()
    assert method.reconstruct(batch, PLAN) is None

    own, twins, public = reference("cae"), leaves(method), public_state()
    guessed, latents, decoded, codes = [], [], [], []
    for image, keep, hidden in zip(batch.images.double(), KEEPS, HIDDEN, strict=True):
        guess, logits = guess_and_decode(method, reference, part, twins, image, keep)
        guessed.append(guess)
        decoded.append(logits)
        latents.append(encode(method, reference, part, twins, image, hidden)[1:])
        channels = [x * s + m for x, s, m in zip(image, COLOURS.std, COLOURS.mean, strict=True)]
        everywhere = own.tokenize(torch.stack(channels).clamp(0, 1), public)
        codes.append([everywhere[i] for i in hidden])
    assert len({code for row in codes for code in row}) > 1
    loss = own.surprise(decoded, codes) + 2 * own.squared(guessed, latents)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/tokens"] + step.metrics["loss/alignment"], step.loss.detach())
    set_aside_what_a_softmax_does_not_see(method, twins)
    assert_same_gradients(method, twins)


def public_state() -> dict[str, Tensor]:
    """A tokenizer of 12 codes by the names of the public module, with random weights; their logits are 0 on average."""
    torch.manual_seed(1)
    tokenizer = Tokenizer(width=8, vocabulary=12)
    state = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    with torch.no_grad():
        state["blocks.output.conv.bias"] -= tokenizer.blocks(torch.rand(8, 3, 16, 24)).mean(dim=(0, 2, 3))
    short = {"weight": "w", "bias": "b"}
    named = {f"{name.rpartition('.')[0]}.{short[name.rpartition('.')[2]]}": value for name, value in state.items()}
    return {name: value.double() for name, value in named.items()}


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    save_file({name: value.float() for name, value in public_state().items()}, tmp_path / "tokenizer.safetensors")
    return tmp_path / "tokenizer.safetensors"


def test_a_tokenizer_sees_eight_pixels_for_each_patch_and_is_not_saved(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, tokenizer_file: Path
) -> None:
    method = make_method("cae", backbone={"patch_size": 4}, target="tokens", tokenizer=str(tokenizer_file))
    assert isinstance(method, CAE)
    method.normalised_by(COLOURS)
    seen: list[Tensor] = []
    assert method.tokenizer is not None
    method.tokenizer.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    method(batch, rng).loss.backward()
    colours, codes = seen
    assert colours.shape == (3, 3, 32, 48)
    assert 0 <= colours.min() < colours.max() <= 1
    assert codes.shape == (3, 24)
    saved = [name for name in method.state_dict() if "tokenizer" in name or name in ("mean", "std")]
    assert saved == []
    assert not any("tokenizer" in name for name, _ in method.named_parameters())


def test_what_is_guessed_and_decoded_knows_hidden_pixels_only_through_the_alignment_target(
    make_method: MakeMethod, batch: Batch
) -> None:
    method = make_method("cae")
    assert isinstance(method, CAE)
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)

    def parts(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        guessed = method.latents.regress(method.latents.encode(images, PLAN), PLAN)
        return guessed, method.latents.decoder(guessed, PLAN), method.latents.target(images, PLAN)

    (guessed, decoded, target), (guessed2, decoded2, target2) = parts(batch.images), parts(dirty)
    assert torch.equal(guessed, guessed2)
    assert torch.equal(decoded, decoded2)
    assert not torch.equal(target, target2)


def test_the_alignment_target_knows_masked_pixels_only_and_learns_nothing(
    make_method: MakeMethod, batch: Batch
) -> None:
    method = make_method("cae")
    assert isinstance(method, CAE)
    visible = ~PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(visible, torch.full_like(batch.images, 1e3), batch.images)
    target = method.latents.target(batch.images, PLAN)
    assert torch.equal(method.latents.target(dirty, PLAN), target)
    assert not target.requires_grad
    with torch.no_grad():
        method.adapter.backbone.get_parameter("blocks.0.mlp.fc2.weight").mul_(1.5)
    assert not torch.equal(method.latents.target(batch.images, PLAN), target)  # no copy of the encoder: itself


def test_drop_path_stays_on_where_the_alignment_target_is_made(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("cae", backbone={"drop_path_rate": 0.5})
    assert isinstance(method, CAE)

    def target() -> Tensor:
        return method.latents.target(batch.images, PLAN)

    assert not torch.equal(target(), target())
    method.eval()
    assert torch.equal(target(), target())


def test_regressor_and_decoder_have_the_layer_scale_and_the_drop_path_of_the_encoder(make_method: MakeMethod) -> None:
    shape = {"regressor_depth": 3, "decoder_depth": 2, "decoder_width": 24, "decoder_heads": 3}
    for backbone, scale, rate in (({}, None, 0.0), ({"init_values": 3.0, "drop_path_rate": 0.4}, 3.0, 0.4)):
        method = make_method("cae", backbone=backbone, **shape)
        assert isinstance(method, CAE)
        for part, depth in ((method.latents.regressor, 3), (method.latents.decoder, 2)):
            gammas = [m.gamma.detach() for m in part.modules() if isinstance(m, LayerScale)]
            assert len(gammas) == (2 * depth if scale else 0)
            # These methods have noise of 0.1 on every parameter.
            assert all((gamma - scale).abs().max() < 0.6 for gamma in gammas)
            rates = [m.drop_prob for m in part.modules() if isinstance(m, DropPath)]
            assert max(rates, default=0.0) == pytest.approx(rate)


def test_without_alignment_the_encoder_runs_once(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    for weight, passes in ((2.0, [True, False]), (0.0, [True])):
        method = make_method("cae", alignment_weight=weight)
        learns: list[bool] = []
        block: Any = method.adapter.backbone.get_submodule("blocks.0")
        block.register_forward_hook(lambda *_, learns=learns: learns.append(torch.is_grad_enabled()))
        method(batch, rng, PLAN)
        assert learns == passes


def test_the_complement_swaps_visible_and_masked_and_leaves_dropped_ones_out() -> None:
    role = torch.tensor([[0, 1, 2, 1, 0, 1], [1, 1, 0, 2, 1, 0]], dtype=torch.int8)
    plan = MaskPlan(role, (2, 3))
    other = complement(plan)
    assert other.role.tolist() == [[1, 0, 2, 0, 1, 0], [0, 0, 1, 2, 0, 1]]
    assert other.role.dtype == torch.int8
    assert torch.equal(other.keep_ids, plan.mask_ids)
    assert torch.equal(other.mask_ids, plan.keep_ids)
    assert other.counts == MaskPlan(other.role, (2, 3)).counts == (3, 2, 1)


def test_dropped_patches_take_no_part(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("cae")
    role = torch.tensor([[0, 1, 2, 1, 0, 1], [1, 1, 0, 2, 1, 0], [2, 0, 1, 1, 0, 1]], dtype=torch.int8)
    plan = MaskPlan(role, (2, 3))
    dropped = (role == 2).reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(dropped, torch.full_like(batch.images, 1e3), batch.images)
    clean = method(batch, rng, plan).loss
    assert torch.equal(method(dataclasses.replace(batch, images=dirty), rng, plan).loss, clean)


def test_reconstructions_show_visible_patches_as_they_are_and_guesses_in_their_own_contrast(
    make_method: MakeMethod, batch: Batch
) -> None:
    method = make_method("cae")
    assert isinstance(method, CAE)
    brighter = dataclasses.replace(batch, images=batch.images.clone())
    brighter.images[:, :, :8, 8:16] = brighter.images[:, :, :8, 8:16] * 3 + 5  # patch 1: hidden in the first image
    with torch.no_grad():
        shown, other = method.reconstruct(batch, PLAN), method.reconstruct(brighter, PLAN)
    assert shown is not None
    assert other is not None
    assert torch.equal(shown[0, :, :8, :8], batch.images[0, :, :8, :8])
    assert not torch.equal(shown[0, :, :8, 8:16], batch.images[0, :, :8, 8:16])
    # The guess is the same, and is shown with the mean and deviation of the patch that lies there; the epsilon of
    # 1e-6 beside a variance of about 1 moves it by far less.
    torch.testing.assert_close(other[0, :, :8, 8:16], shown[0, :, :8, 8:16] * 3 + 5, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_the_loss_in_float32_and_every_weight_learning(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("cae")
    exact = method(batch, rng, PLAN).loss
    exact.backward()
    learnt = {name for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, PLAN).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    loss.backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == learnt


def test_the_defaults_are_the_papers_but_for_the_target_and_what_is_beside_it() -> None:
    paper = {"regressor_depth": 4, "decoder_depth": 4, "decoder_width": 0, "decoder_heads": 12}
    codes = {"target": "tokens", "tokenizer": "dalle.pt"}
    assert CAESettings(**codes) == CAESettings(**codes, **paper, alignment_weight=2.0)
    assert CAESettings() == CAESettings(target="pixels", **paper, alignment_weight=0.2)
    assert CAESettings(alignment_weight=0.0).alignment_weight == 0.0


def test_the_recipe_hides_half_of_196_patches_in_blocks() -> None:
    values = dict(load_recipe("cae")["masking"])
    masking = build(MASKINGS.get(values.pop("name")), values, "masking")
    plan = masking.sample(4, (14, 14), torch.Generator().manual_seed(0))
    assert plan.counts == (98, 98, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "colours"}, r"^method\.target must be one of pixels, tokens; got 'colours'$"),
        ({"target": "tokens"}, r"^method\.target 'tokens' needs the weights of a tokenizer; give a local file with"),
        ({"tokenizer": "x.pth"}, r"^method\.tokenizer is not used with method\.target 'pixels'; leave it out, or"),
        ({"regressor_depth": 0}, r"^method\.regressor_depth must be at least 1; got 0$"),
        ({"decoder_depth": -1}, r"^method\.decoder_depth must be at least 0; got -1$"),
        ({"decoder_width": -4}, r"^method\.decoder_width must be at least 0; got -4$"),
        ({"decoder_heads": 0}, r"^method\.decoder_heads must be at least 1; got 0$"),
        ({"alignment_weight": -1.0}, r"^method\.alignment_weight must not be negative; got -1\.0$"),
        ({"decoder_heads": 3}, r"^method\.decoder_heads 3 does not divide the 16 channels of regressor and decoder; "),
        ({"decoder_width": 18, "decoder_heads": 3}, r"multiple of 4; got 18$"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_method("cae", **settings)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_there_is_one_line(make_method: MakeMethod, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights .*none\.pth do not exist"):
        make_method("cae", target="tokens", tokenizer=str(tmp_path / "none.pth"))
