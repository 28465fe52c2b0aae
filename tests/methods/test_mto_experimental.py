"""The reconstruction of MTO against a second implementation, part by part, and its host where all of them are off."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method
from edgemim.methods.mto_experimental import (
    MTOSettings,
    entropy_loss,
    heterogeneity,
    rise,
    spatial_loss,
)
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.settings.training import TrainingSettings

MakeMethod = Callable[..., Method]
V, M, D = VISIBLE, MASKED, DROPPED
ROLES = [[V, M, M, D, V, M], [M, V, D, M, M, V], [V, V, M, M, D, M]]
HOSTS = ["simmim", "mae"]
OFF = {"spatial": 0.0, "entropy": 0.0, "heterogeneity": 0.0, "gate": False}
WEIGHTS = {"spatial": 0.3, "entropy": 0.2, "heterogeneity": 0.7}


def a_plan() -> MaskPlan:
    return MaskPlan(torch.tensor(ROLES, dtype=torch.int8), (2, 3))


def with_role(role: int) -> list[list[int]]:
    return [[i for i, r in enumerate(roles) if r == role] for roles in ROLES]


def the_host_itself(method: Any, make_method: MakeMethod) -> Method:
    """A method of the host's own class with the same weights."""
    plain = make_method(method.settings.host)
    plain.load_state_dict({k.removeprefix("host."): v for k, v in method.state_dict().items() if k != "gates"})
    return plain


@pytest.mark.parametrize("prefix", [["cls_token"], ["cls_token", "reg_token"], []], ids=["class", "registers", "none"])
@pytest.mark.parametrize("host", HOSTS)
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    host: str,
    prefix: list[str],
) -> None:
    shape: dict[str, Any] = {"reg_tokens": 2} if "reg_token" in prefix else {}
    if not prefix:
        shape = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    method: Any = make_method("mto-experimental", backbone=shape, host=host, decoder_depth=4, **WEIGHTS)
    with torch.no_grad():
        method.gates.copy_(torch.tensor([0.3, -0.5, 0.1, -0.2]))
        for block in method._blocks():
            block.mlp.fc2.weight.mul_(4)  # so that the two kinds of tokens become less alike on the way, too
    step = method(batch, rng, a_plan())
    step.loss.backward()

    plain, twins = reference("mto"), leaves(method)
    first = len(prefix) + shape.get("reg_tokens", 1) - 1 if prefix else 0
    seen, hidden = ([[first + i for i in ids] for ids in with_role(role)] for role in (VISIBLE, MASKED))
    run = _simmim if host == "simmim" else _mae
    pixels, states = run(reference, part, twins, batch.images.double(), prefix, first)
    terms = {
        "pixels": pixels,
        "spatial": 0.3 * plain.spatial(states[0], seen, hidden),
        "entropy": 0.2 * plain.entropy(states[0], seen, hidden),
        "heterogeneity": 0.7 * plain.rise([plain.heterogeneity(state, seen, hidden) for state in states]),
    }
    loss = sum(terms.values())
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    for name, term in terms.items():
        # The rise is a small difference of larger numbers.
        torch.testing.assert_close(step.metrics[f"loss/{name}"].double(), term.detach(), rtol=1e-4, atol=1e-6)
        assert term > 1e-3, name
    assert_same_gradients(method, twins)


def _simmim(
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    twins: dict[str, Tensor],
    images: Tensor,
    prefix: list[str],
    first: int,
) -> tuple[Tensor, list[list[Tensor]]]:
    """The host's loss, and for each block of the encoder what enters it, by image."""
    plain, simmim, pieces = reference("mto"), reference("simmim"), reference("masked_autoencoder")
    state = part(twins, "model.")
    predictions, entered = [], []
    for image, seen, masked, dropped in zip(images, *map(with_role, (V, M, D)), strict=True):
        token = twins["host.mask_token"][0, 0]
        rows = [token for name in prefix for token in state[name][0]]
        rows += simmim.embed(image, {*masked, *dropped}, state, token, 8)
        states, x = plain.run(
            pieces,
            torch.stack(rows) + state["pos_embed"][0],
            state,
            heads=2,
            blocks=4,
            visible={first + i for i in seen},
            masked={first + i for i in masked},
            gates=twins["gates"],
        )
        tokens = pieces.layer_norm(x, state, "norm")[first:]
        predictions.append(simmim.predict(tokens, part(twins, "host."), 8, columns=3))
        entered.append(states)
    return simmim.loss(predictions, images, with_role(MASKED), 8), [list(level) for level in zip(*entered, strict=True)]


def _mae(
    reference: Callable[[str], ModuleType],
    part: Callable[..., dict[str, Tensor]],
    twins: dict[str, Tensor],
    images: Tensor,
    prefix: list[str],
    first: int,
) -> tuple[Tensor, list[list[Tensor]]]:
    """As for SimMIM, of the decoder; a dropped patch has no row of its own."""
    plain, pieces = reference("mto"), reference("masked_autoencoder")
    decoder = part(twins, "host.pixels.decoder.")
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, first))
    errors, entered = [], []
    for image, seen, masked in zip(images, *map(with_role, (V, M)), strict=True):
        tokens = pieces.encode(image, seen, part(twins, "model."), patch=8, heads=2, blocks=4, prefix=prefix)[-1]
        embedded = pieces.linear(tokens, decoder, "embed")
        ids = [*range(first), *(first + i for i in seen), *(first + i for i in masked)]
        rows = [*embedded, *[decoder["mask_token"][0, 0]] * len(masked)]
        behind = len(embedded)
        states, x = plain.run(
            pieces,
            torch.stack([row + table[i] for row, i in zip(rows, ids, strict=True)]),
            decoder,
            heads=4,
            blocks=4,
            visible=set(range(first, behind)),
            masked=set(range(behind, len(ids))),
            gates=twins["gates"],
        )
        predicted = pieces.linear(pieces.layer_norm(x, decoder, "norm"), decoder, "predict")
        patches = pieces.patches_of(image, 8, "hwc")
        for n, i in enumerate(masked):
            target = pieces.pixel_target(patches[i], True)
            errors.append(((predicted[behind + n] - target) ** 2).sum() / len(target))
        # In the places of their patches, where the caller looks for them.
        order = [ids.index(first + i) if first + i in ids else 0 for i in range(6)]
        entered.append([torch.cat([state[:first], state[order]]) for state in states])
    return torch.stack(errors).sum() / len(errors), [list(level) for level in zip(*entered, strict=True)]


@pytest.mark.parametrize("host", HOSTS)
def test_with_all_parts_off_it_is_its_host_to_the_last_bit(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, host: str
) -> None:
    method = make_method("mto-experimental", host=host, **OFF)
    plain = the_host_itself(method, make_method)
    step, usual = method(batch, rng, a_plan()), plain(batch, rng, a_plan())
    assert torch.equal(step.loss, usual.loss)
    assert {k: float(v) for k, v in step.metrics.items()} == {k: float(v) for k, v in usual.metrics.items()}
    step.loss.backward()
    usual.loss.backward()
    wanted = dict(plain.named_parameters())
    assert {n.removeprefix("host.") for n, _ in method.named_parameters()} == set(wanted)
    for name, parameter in method.named_parameters():
        other = wanted[name.removeprefix("host.")]
        assert (parameter.grad is None) == (other.grad is None), name
        assert other.grad is None or torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]


@pytest.mark.parametrize("host", HOSTS)
def test_a_fresh_gate_changes_nothing_and_learns(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, host: str
) -> None:
    method: Any = make_method("mto-experimental", host=host, **(OFF | {"gate": True}))
    torch.nn.init.zeros_(method.gates)
    plain = the_host_itself(method, make_method)
    step, usual = method(batch, rng, a_plan()), plain(batch, rng, a_plan())
    assert torch.equal(step.loss, usual.loss)
    step.loss.backward()
    usual.loss.backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in method.named_parameters():
        if name == "gates":
            continue
        gradient = wanted[name.removeprefix("host.")].grad
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            # Gradients of keys and values are added up in two parts.
            error = (parameter.grad - gradient).abs().max()
            assert error <= 1e-5 * gradient.abs().max() + 1e-9, name
    assert (method.gates.grad[:-1] != 0).all()
    # Nobody reads what the visible tokens of the last block say.
    assert method.gates.grad[-1] == 0
    shown, without = method.reconstruct(batch, a_plan()), plain.reconstruct(batch, a_plan())
    assert torch.equal(shown, without)
    torch.nn.init.constant_(method.gates, -3.0)
    assert not torch.equal(method.reconstruct(batch, a_plan()), without)


def test_a_fresh_method_has_gates_of_one(make_method: MakeMethod) -> None:
    method: Any = make_method("mto-experimental")
    fresh = type(method)(method.adapter, method.masking, method.settings)
    assert torch.equal(fresh.gates, torch.zeros(4))


@pytest.mark.parametrize("on", ["spatial", "entropy", "heterogeneity"])
def test_each_loss_is_there_where_it_is_switched_on(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, on: str
) -> None:
    method = make_method("mto-experimental", **(OFF | {on: 0.5}))
    metrics = method(batch, rng, a_plan()).metrics
    assert set(metrics) == {f"loss/{name}{form}" for name in ("pixels", on) for form in ("", "_unscaled")}
    torch.testing.assert_close(metrics[f"loss/{on}"], 0.5 * metrics[f"loss/{on}_unscaled"])


def test_the_spatial_loss_is_the_mean_positive_cosine() -> None:
    # Cosines of the mask token (1, 0) with (2, 0), (1, 1) and (-1, 0): 1, the root of a half, -1 which counts as 0.
    masked, visible = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]])
    torch.testing.assert_close(spatial_loss(masked, visible), torch.tensor((1 + 0.5**0.5) / 3))


def test_the_entropy_is_one_where_all_are_alike_and_small_where_one_stands_out() -> None:
    alike = torch.ones(1, 3, 4)
    torch.testing.assert_close(entropy_loss(alike[:, :1], alike), torch.tensor(1.0))
    # The cosine is 1 with itself and 0.9 with the only other: at 0.1 logits of 10 and 9, which is a share of
    # e / (1 + e) = 0.7311 and of 0.2689.
    masked, visible = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.9, 0.19**0.5]]])
    wanted = -(0.7310586 * math.log(0.7310586) + 0.2689414 * math.log(0.2689414)) / math.log(2)
    torch.testing.assert_close(entropy_loss(masked, visible), torch.tensor(wanted))
    assert 0 <= entropy_loss(masked, -masked) < 1e-6


def test_heterogeneity_compares_mean_distributions() -> None:
    # Shares of the masked token: 3/4 and 1/4. Of the visible ones 1/2, 1/2 and 1, 0: in the mean 3/4 and 1/4 too.
    masked = torch.tensor([[[math.log(3), 0.0]]])
    visible = torch.tensor([[[0.0, 0.0], [200.0, 0.0]]])
    torch.testing.assert_close(heterogeneity(masked, visible), torch.tensor(0.0), rtol=0, atol=1e-6)
    # Against 1/2 and 1/2: 3/4 log(3/2) + 1/4 log(1/2).
    wanted = torch.tensor(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    torch.testing.assert_close(heterogeneity(masked, visible[:, :1]), wanted)
    # A share too small for float32 is no division by zero.
    assert heterogeneity(visible[:, :1], visible[:, 1:]).isfinite()


def test_only_a_rise_is_punished() -> None:
    levels = [torch.tensor(x) for x in (3.0, 1.0, 1.5, 0.5, 2.5)]
    torch.testing.assert_close(rise(levels), torch.tensor(2.5))
    torch.testing.assert_close(rise(levels[:2]), torch.tensor(0.0))
    torch.testing.assert_close(rise(levels[:1]), torch.tensor(0.0))


@pytest.mark.parametrize("host", HOSTS)
def test_no_tensor_has_two_names_and_the_hosts_keep_theirs(make_method: MakeMethod, host: str) -> None:
    method = make_method("mto-experimental", host=host)
    tensors = [v.data_ptr() for v in method.state_dict().values()]
    assert len(tensors) == len(set(tensors))
    assert {n for n in method.predictor_state() if n != "gates"} == {
        f"host.{n}" for n in make_method(host).predictor_state()
    }
    assert "gates" in method.predictor_state()


def test_tokens_and_gates_are_not_decayed(make_method: MakeMethod) -> None:
    method = make_method("mto-experimental")
    names = {id(p): name for name, p in method.named_parameters()}
    assert set(method.no_weight_decay()) <= set(names.values())
    groups = parameter_groups(method, TrainingSettings(steps=1, weight_decay=0.05))
    decayed = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] > 0}
    assert not {"host.mask_token", "model.cls_token", "model.pos_embed", "gates"} & decayed
    assert "host.head.weight" in decayed


@pytest.mark.parametrize("host", HOSTS)
def test_compiled_blocks_stay_compiled_without_a_gate_and_are_given_back(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, host: str
) -> None:
    for gate in (False, True):
        method: Any = make_method("mto-experimental", host=host, gate=gate)
        blocks = method.model.blocks if host == "simmim" else method.host.pixels.decoder.blocks
        calls: list[int] = []

        def compiled(x: Tensor, *, block: Any, calls: list[int] = calls, **part: int) -> Tensor:
            calls.append(1)
            return block._call_impl(x, **part)  # type: ignore[no-any-return]

        forms = [lambda x, block=block, **part: compiled(x, block=block, **part) for block in blocks]
        for block, form in zip(blocks, forms, strict=True):
            block._compiled_call_impl = form
        method(batch, rng, a_plan())
        assert len(calls) == (0 if gate else len(blocks))
        assert [block._compiled_call_impl for block in blocks] == forms


def test_blocks_are_given_back_when_the_host_fails(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method: Any = make_method("mto-experimental")
    method.host.head.forward = None
    with pytest.raises(TypeError):
        method(batch, rng, a_plan())
    assert all(block._compiled_call_impl is None for block in method.model.blocks)


def test_it_says_that_it_is_experimental() -> None:
    assert METHODS.describe("mto-experimental").summary.startswith("EXPERIMENTAL")
    assert "no formula in it comes from released code" in METHODS.get("mto-experimental").experimental


def test_every_part_is_on_with_a_weight_of_a_tenth() -> None:
    assert MTOSettings() == MTOSettings(
        host="simmim",
        spatial=0.1,
        entropy=0.1,
        heterogeneity=0.1,
        gate=True,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        norm_pix=True,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "spark"}, r"method\.host must be one of simmim, mae; got 'spark'"),
        ({"spatial": -0.1}, r"method\.spatial must not be negative; got -0\.1"),
        ({"entropy": -0.1}, r"method\.entropy must not be negative; got -0\.1"),
        ({"heterogeneity": -0.1}, r"method\.heterogeneity must not be negative; got -0\.1"),
        ({"decoder_depth": 0}, r"method\.decoder_depth must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MTOSettings(**settings)


@pytest.mark.parametrize("host", HOSTS)
def test_half_precision_keeps_the_losses_in_float32(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, host: str
) -> None:
    method = make_method("mto-experimental", host=host)
    exact = method(batch, rng, a_plan()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(batch, rng, a_plan())
    assert step.loss.dtype == torch.float32
    assert {v.dtype for v in step.metrics.values()} == {torch.float32}
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(step.loss, exact, rtol=2e-2, atol=0)
