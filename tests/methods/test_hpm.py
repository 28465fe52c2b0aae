"""HPM against a second implementation, its ranking by hand, and its copy: what runs of it, when, and how it follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.difficulty import DifficultyMasking
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods._ranking import order_loss, size_loss
from edgemim.methods.hpm import HPM, HPMSettings
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
MASKED = [[i for i in range(6) if i not in keep] for keep in KEEPS]
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}
SHAPES: dict[str, dict[str, Any]] = {
    "class": {},
    "registers": {"reg_tokens": 2},
    "none": {"class_token": False, "global_pool": "avg", "fc_norm": False},
}


def plan() -> MaskPlan:
    return MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))


def guided(make_method: MakeMethod, **settings: Any) -> HPM:
    """With the masking that asks for the difficulty; half of the patches are hidden."""
    method = make_method("hpm", masking=DifficultyMasking(mask_ratio=0.5, hardest=1.0), **settings)
    assert isinstance(method, HPM)
    return method


@pytest.mark.parametrize("ranking", ["pairwise", "absolute"])
@pytest.mark.parametrize(("shape", "norm_pix"), [("class", False), ("registers", True), ("none", False)])
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    ranking: str,
    shape: str,
    norm_pix: bool,
) -> None:
    method = make_method("hpm", backbone=SHAPES[shape], norm_pix=norm_pix, ranking=ranking)
    if ranking == "pairwise":
        # What moves all scores alike has no gradient but rounding, which nothing can be compared with.
        method.difficulty.norm.bias.requires_grad_(False)
        method.difficulty.predict.bias.requires_grad_(False)
    step = method(batch, rng, plan())
    step.loss.backward()

    pieces, own, twins = reference("masked_autoencoder"), reference("hpm"), leaves(method)
    prefix = method.adapter.num_prefix
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix))
    encoder, decoder, second = (part(twins, name) for name in ("model.", "pixels.decoder.", "difficulty."))
    errors, scores = [], []
    for image, keep, masked in zip(batch.images.double(), KEEPS, MASKED, strict=True):
        tokens = pieces.encode(image, keep, encoder, patch=8, heads=2, blocks=4, prefix=PREFIX[prefix])[-1]
        sequence = own.sequence(tokens, keep, masked, decoder, table)
        predicted = own.decode(pieces, sequence, decoder, heads=4, blocks=2)[-len(masked) :]
        judged = own.decode(pieces, sequence, second, heads=4, blocks=2)[-len(masked) :]
        errors.append(own.patch_errors(pieces, predicted, image, masked, 8, norm_pix))
        scores.append([own.score(outputs) for outputs in judged])
    pixels = torch.stack([error for of_image in errors for error in of_image]).sum() / 12
    rank = {"pairwise": own.order_loss, "absolute": own.size_loss}[ranking](scores, errors)
    (pixels + rank).backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), pixels + rank, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/pixels"].double(), pixels.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/ranking"].double(), rank.detach(), rtol=1e-5, atol=0)
    # The predictor's gradients come from differences of scores that are close to each other, and of errors as close.
    assert_same_gradients(method, twins, relative=1e-4)


def test_a_worked_example_of_the_order() -> None:
    # Of three patches the first is hardest and the other two are alike: two pairs count. The first wins against the
    # second by 2, and loses against the third by 1.
    scores, errors = torch.tensor([[2.0, 0.0, 3.0]]), torch.tensor([[0.9, 0.1, 0.1]])
    costs = [-math.log(1 / (1 + math.exp(-gap)) + 1e-6) for gap in (2.0, -1.0)]
    assert float(order_loss(scores, errors)) == pytest.approx(sum(costs) / 2, rel=1e-6)


def test_a_perfect_order_costs_nothing_equal_scores_the_logarithm_of_two_and_the_reverse_the_most() -> None:
    errors = torch.tensor([[0.1, 0.4, 0.2, 0.3], [3.0, 1.0, 2.0, 0.0]])
    ranks = errors.argsort(dim=1).argsort(dim=1).float()
    assert float(order_loss(50 * ranks, errors)) == pytest.approx(0, abs=2e-6)  # the constant in the logarithm
    assert float(order_loss(torch.full_like(errors, 7.0), errors)) == pytest.approx(math.log(2), abs=3e-6)
    assert float(order_loss(-500 * ranks, errors)) == pytest.approx(-math.log(1e-6), rel=1e-6)


def test_only_differences_of_scores_matter() -> None:
    scores, errors = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    moved = scores + torch.tensor([[1.0], [-2.0], [8.0]])
    # A score near 8 has an error of 5e-7.
    torch.testing.assert_close(order_loss(moved, errors), order_loss(scores, errors), rtol=1e-5, atol=0)


def test_ties_do_not_count_and_every_pair_of_the_batch_counts_alike() -> None:
    scores = torch.tensor([[1.0, 0.0, -4.0], [0.0, 3.0, 9.0]])
    errors = torch.tensor([[2.0, 1.0, 0.0], [5.0, 5.0, 5.0]])
    assert torch.equal(order_loss(scores, errors), order_loss(scores[:1], errors[:1]))
    partly = torch.tensor([[2.0, 1.0, 0.0], [7.0, 5.0, 5.0]])  # two more pairs, lost by 3 and by 9
    costs = [-math.log(1 / (1 + math.exp(-gap)) + 1e-6) for gap in (1.0, 5.0, 4.0, -3.0, -9.0)]
    assert float(order_loss(scores, partly)) == pytest.approx(sum(costs) / 5, rel=1e-6)
    nothing = order_loss(scores.requires_grad_(), torch.zeros(2, 3))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


def test_a_worked_example_of_the_size() -> None:
    # Errors of mean 2 and unbiased variance 1 are -1, 0 and 1; scores of 0 are off by 1, 0 and 1.
    assert float(size_loss(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]))) == pytest.approx(2 / 3, rel=1e-5)


def test_errors_learn_nothing_from_the_ranking() -> None:
    for loss in (order_loss, size_loss):
        scores, errors = (torch.rand(2, 4, requires_grad=True) for _ in range(2))
        loss(scores, errors).backward()
        assert errors.grad is None
        assert scores.grad is not None


def calls_of(method: HPM) -> dict[str, list[bool]]:
    """Whether gradients were on, at each call of the first block of each part."""
    assert method.momentum is not None
    parts: dict[str, Any] = {
        "encoder": method.model,
        "decoder": method.pixels.decoder,
        "predictor": method.difficulty,
        "copy of the encoder": method.momentum.backbone,
        "copy of the predictor": method.momentum.heads["difficulty"],
    }
    calls: dict[str, list[bool]] = {name: [] for name in parts}

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: calls[name].append(torch.is_grad_enabled())

    for name, module in parts.items():
        module.blocks[0].register_forward_hook(noting(name))
    return calls


def test_the_copy_looks_once_without_gradient_and_its_reconstruction_never_runs(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = guided(make_method)
    calls = calls_of(method)
    method(batch, rng).loss.backward()
    assert calls == {
        "encoder": [True],
        "decoder": [True],
        "predictor": [True],
        "copy of the encoder": [False],
        "copy of the predictor": [False],
    }
    assert method.momentum is not None
    assert all(p.grad is None for p in method.momentum.parameters())
    assert set(method.momentum.heads) == {"embed", "difficulty"}


def test_with_a_given_plan_or_a_masking_that_does_not_ask_no_copy_runs(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = guided(make_method)
    calls = calls_of(method)
    method(batch, rng, plan())
    assert calls["copy of the encoder"] == calls["copy of the predictor"] == []
    plain = make_method("hpm", masking=RandomMasking(mask_ratio=0.5))
    assert plain.momentum is None
    assert plain(batch, rng).loss.isfinite()
    plain.after_step(1.0)
    assert not [name for name in plain.state_dict() if name.startswith("momentum.")]


def test_the_difficulty_is_what_the_copy_predicts_of_whole_images(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    batch: Batch,
) -> None:
    method = guided(make_method, backbone={"drop_path_rate": 0.5})  # which a copy that trained would feel
    with torch.no_grad():
        for parameter in method.parameters():  # the originals go elsewhere
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    found = method.signals(batch)["difficulty"]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    pieces, own = reference("masked_autoencoder"), reference("hpm")
    state = {name: value.double() for name, value in method.state_dict().items()}
    encoder, second = part(state, "momentum.backbone."), part(state, "momentum.heads.difficulty.")
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 1))
    front = {f"embed.{name}": value for name, value in part(state, "momentum.heads.embed.").items()}
    for image, scores in zip(batch.images.double(), found, strict=True):
        tokens = pieces.encode(image, range(6), encoder, patch=8, heads=2, blocks=4, prefix=["cls_token"])[-1]
        outputs = own.decode(pieces, own.sequence(tokens, list(range(6)), [], front, table), second, heads=4, blocks=2)
        expected = torch.stack([own.score(output) for output in outputs[1:]])
        # float32 against float64.
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-6)


def test_at_the_end_of_a_run_the_hardest_patches_are_hidden(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = guided(make_method)
    late = dataclasses.replace(batch, epoch_share=1.0)
    hardest = method.signals(late)["difficulty"].topk(3, dim=1).indices.sort(dim=1).values
    drawn = method.draw(late, rng, method.signals(late))
    assert torch.equal(drawn.mask_ids, hardest)
    # A step of its own draws the same.
    loss = method(late, torch.Generator().manual_seed(5)).loss
    assert torch.equal(loss, method(late, torch.Generator().manual_seed(6), drawn).loss)


@pytest.mark.parametrize(
    ("epoch", "decay"), [(0.0, 0.999), (50.0, 0.99945), (100.0, 0.9999), (300.0, 0.9999)]
)  # by hand: 0.999 + 0.0009 * epoch / 100, up to epoch 100
def test_the_copy_follows_slower_and_slower_for_a_hundred_epochs(
    make_method: MakeMethod, epoch: float, decay: float
) -> None:
    method = guided(make_method)
    assert method.momentum is not None
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(1.0 if parameter.requires_grad else 0.0)
    method.after_step(epoch)
    for name, parameter in method.momentum.named_parameters():
        # 1 - decay in float32.
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - decay), rtol=1e-3, atol=0, msg=name)


def test_the_copy_starts_as_what_the_run_starts_with(make_method: MakeMethod) -> None:
    method, other = guided(make_method), guided(make_method, backbone={"drop_path_rate": 0.1})
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    method.load_predictor(other.predictor_state())
    assert method.momentum is not None
    own = dict(method.difficulty.named_parameters())
    for name, parameter in method.momentum.heads["difficulty"].named_parameters():
        assert torch.equal(parameter, own[name]), name
        assert torch.equal(parameter, dict(other.difficulty.named_parameters())[name]), name


def test_what_it_throws_away_has_both_decoders_and_no_copy(make_method: MakeMethod) -> None:
    thrown = guided(make_method).predictor_state()
    assert {name.split(".")[0] for name in thrown} == {"pixels", "difficulty"}


def test_reconstructions_are_those_of_the_decoder(make_method: MakeMethod, batch: Batch) -> None:
    method = guided(make_method).eval()
    mae = make_method("mae", norm_pix=False).eval()
    mae.model.load_state_dict(method.model.state_dict())
    mae.pixels.load_state_dict(method.pixels.state_dict())
    with torch.no_grad():
        shown, expected = method.reconstruct(batch, plan()), mae.reconstruct(batch, plan())
    assert shown is not None
    assert expected is not None
    assert torch.equal(shown, expected)


def test_the_defaults_are_the_papers() -> None:
    assert HPMSettings() == HPMSettings(
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        norm_pix=False,
        ranking="pairwise",
        ema_decay=0.999,
        ema_decay_end=0.9999,
        ema_epochs=100.0,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranking": "list"}, r"^method\.ranking must be one of pairwise, absolute; got 'list'$"),
        ({"ema_decay": 1.0}, r"^method\.ema_decay must lie in \[0, 1\); got 1\.0$"),
        ({"ema_decay_end": -0.1}, r"^method\.ema_decay_end must lie in \[0, 1\); got -0\.1$"),
        ({"ema_epochs": 0.0}, r"^method\.ema_epochs must be more than 0; got 0\.0$"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HPMSettings(**settings)


def test_a_masking_that_asks_for_the_difficulty_names_the_method_that_has_it(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError, match="needs 'difficulty', which method 'mae' does not give; methods that do: hpm"):
        make_method("mae", masking=DifficultyMasking())


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = guided(make_method)
    exact = method(batch, rng, plan()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(batch, rng, plan())
        difficulty = method.signals(batch)["difficulty"]
    assert step.loss.dtype == difficulty.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(step.loss, exact, rtol=2e-2, atol=0)
