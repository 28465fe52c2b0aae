"""What every method promises, whatever it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from edgemim.config import build
from edgemim.masking import MASKINGS
from edgemim.methods import METHODS
from edgemim.methods._asked import TeacherView
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._teacher_view import ask
from edgemim.models.checkpoint import MODEL, CheckpointInfo, save_checkpoint
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import Preprocess
from edgemim.training.shown.pictures import draw

MakeMethod = Callable[..., Method]

# The backbones of `make_method`, in full, as timm has to build them by itself. In a convnet there are layers of every
# kind that is called in another way while a mask holds: response norms, linear layers, running statistics.
VIT = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
CONVNET = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16), "patch_size": 1}
VITS: dict[str, tuple[str, dict[str, Any]]] = {"": ("vit_tiny_patch16_224", VIT)}
CONVNETS: dict[str, tuple[str, dict[str, Any]]] = {
    "response-norm": ("convnext_atto", {**CONVNET, "conv_mlp": False, "use_grn": True}),
    "batch-norm": ("convnext_atto", {**CONVNET, "norm_layer": "batchnorm2d"}),
}


@pytest.fixture(params=METHODS.names())
def method(request: pytest.FixtureRequest, make_method: MakeMethod) -> Method:
    return make_method(request.param)


def drawn(method: Method, batch: Batch, seed: int) -> MaskPlan:
    return method.draw(batch, generator(seed), method.signals(batch) if method.masking.needs else {})


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_step_gives_a_finite_loss_and_scalars_to_log(method: Method, batch: Batch) -> None:
    step = method(batch, generator(0))
    assert isinstance(step, Step)
    assert step.loss.shape == ()
    assert step.loss.isfinite()
    assert step.loss > 0
    assert step.metrics
    # Every term of the loss is logged as it enters the sum, and as it is without its weight.
    terms = {name for name in step.metrics if name.startswith("loss/")}
    scaled = {name for name in terms if not name.endswith("_unscaled")}
    assert {f"{name}_unscaled" for name in scaled} == terms - scaled
    torch.testing.assert_close(sum(step.metrics[name] for name in scaled), step.loss.detach())
    for name, value in step.metrics.items():
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name


def test_the_backward_pass_reaches_the_backbone_and_lowers_the_loss(method: Method, batch: Batch) -> None:
    plan = drawn(method, batch, 0)
    first = method(batch, generator(0), plan).loss
    first.backward()
    trainable = [p for p in method.backbone.parameters() if p.requires_grad and p.grad is not None]
    assert len(trainable) > 10
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainable)
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
    assert method(batch, generator(0), plan).loss < first


def test_a_step_under_bf16_autocast_has_the_loss_of_one_without(method: Method, batch: Batch) -> None:
    method.eval()
    plan = drawn(method, batch, 0)
    whole = method(batch, generator(0), plan).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method(batch, generator(0), plan).loss
    rounded.backward()
    # bf16 keeps 8 bits: 0.4 % per rounding, and a loss is a mean of what comes out of a dozen of them.
    torch.testing.assert_close(rounded.float(), whole, rtol=0.05, atol=0.0)
    gradients = [p.grad for p in method.backbone.parameters() if p.requires_grad and p.grad is not None]
    assert len(gradients) > 10
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_chance_comes_from_the_given_generator_alone(method: Method, batch: Batch) -> None:
    method.eval()

    def loss(seed: int) -> torch.Tensor:
        torch.rand(3)
        return method(batch, generator(seed)).loss

    assert torch.equal(loss(1), loss(1))
    assert torch.equal(loss(1), loss(2)) != (method.masks or method.corrupts)


def test_a_given_plan_is_used_instead_of_a_drawn_one(method: Method, batch: Batch) -> None:
    if not method.masks:
        pytest.skip("it hides nothing")
    plan = drawn(method, batch, 5)
    step = method.eval()(batch, generator(1), plan)
    assert torch.equal(step.loss, method(batch, generator(2), plan).loss)
    assert not torch.equal(step.loss, method(batch, generator(1)).loss)


def test_what_is_thrown_away_holds_nothing_of_the_backbone_or_the_teacher(method: Method) -> None:
    thrown = method.predictor_state()
    kept = {id(p) for p in method.backbone.parameters()}
    if method.teacher is not None:
        kept |= {id(p) for p in method.teacher.parameters()}
    if isinstance(getattr(method, "momentum", None), torch.nn.Module):
        kept |= {id(p) for p in method.momentum.parameters()}
    parameters = dict(method.named_parameters())
    assert not any(id(parameters[name]) in kept for name in thrown if name in parameters)
    everything = {n for n, p in parameters.items() if id(p) not in kept}
    assert set(thrown) >= everything


def test_reconstructions_are_images_of_the_batch(method: Method, batch: Batch, rng: torch.Generator) -> None:
    plan = method.draw(batch, rng)
    with torch.no_grad():
        images = method.eval().reconstruct(batch, plan)
    if images is not None:
        assert images.shape == batch.images.shape
        assert images.isfinite().all()


def test_the_backbone_is_the_model_that_was_given(method: Method) -> None:
    assert method.backbone is method.adapter.backbone
    assert type(method.backbone).__module__.startswith("timm.")


def test_no_pixel_that_is_hidden_reaches_the_tokens(method: Method, batch: Batch) -> None:
    if "visible" not in method.student_needs:
        pytest.skip("it sees the places of hidden patches")
    plan = method.draw(batch, generator(0))
    hidden = plan.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e5), batch.images)
    method.eval()
    clean = method.adapter.forward(batch.images, plan, mode="visible").final
    assert torch.equal(clean, method.adapter.forward(dirty, plan, mode="visible").final)


def test_the_teacher_runs_once_without_gradient(method: Method, batch: Batch) -> None:
    if method.teacher is None:
        pytest.skip("it has no teacher")
    calls: list[bool] = []
    first = method.teacher.model.blocks[0]  # type: ignore[index]
    first.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))  # type: ignore[union-attr]
    method(batch, generator(0)).loss.backward()
    assert calls == [False]
    assert all(p.grad is None for p in method.teacher.parameters())


def test_what_the_teacher_said_before_gives_the_same_step_without_it(method: Method, batch: Batch) -> None:
    if method.asked is None:
        pytest.skip("it asks nothing about whole images")
    assert method.teacher is not None
    method.eval()
    live = method(batch, generator(0))
    live.loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    method.zero_grad()
    said = ask(method.teacher, batch.for_teacher, method.asked).tensors()
    method.teacher.dismiss()
    stored = method(dataclasses.replace(batch, taught=TeacherView.of(said)), generator(0))
    stored.loss.backward()
    assert {k: float(v) for k, v in stored.metrics.items()} == {k: float(v) for k, v in live.metrics.items()}
    for name, parameter in method.named_parameters():
        gradient = gradients[name]
        assert (parameter.grad is None) == (gradient is None), name
        assert gradient is None or torch.equal(parameter.grad, gradient), name  # type: ignore[arg-type]


def test_a_method_asks_about_whole_images_exactly_where_its_teacher_sees_them(method: Method) -> None:
    assert (method.asked is not None) == (method.needs_teacher and "full" in method.teacher_needs)


def test_what_was_thrown_away_can_be_taken_up_again(method: Method, make_method: MakeMethod) -> None:
    other = make_method(method.name())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in other.predictor_state():
                parameter.zero_()
    state = method.predictor_state()
    assert other.load_predictor(state) == sorted(state)
    assert all(torch.equal(other.predictor_state()[k], v) for k, v in state.items())


def test_the_settings_are_a_frozen_dataclass_with_defaults(method: Method) -> None:
    assert dataclasses.is_dataclass(method.Settings)
    defaults, name = method.Settings(), "anything"  # a frozen one refuses this too, and may have no fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(defaults, name, 0)


def students() -> list[Any]:
    """Every method on its backbones, with the masking of `make_method` and with those that it has signals for."""
    found = []
    for name in METHODS.names():
        cls = METHODS.get(name)
        guided = [m for m in MASKINGS.names() if cls.gives and set(MASKINGS.get(m).needs) == set(cls.gives)]
        for label, (architecture, arguments) in CONVNETS.items() if "sparse" in cls.student_needs else VITS.items():
            for masking in ("", *guided):
                case = "-".join(filter(None, (name, label, masking)))
                found.append(pytest.param(name, architecture, arguments, masking, id=case))
    return found


@pytest.mark.parametrize(("name", "architecture", "arguments", "masking"), students())
def test_the_student_that_is_saved_is_a_plain_timm_model(
    make_method: MakeMethod,
    contract: Preprocess,
    batch: Batch,
    tmp_path: Path,
    name: str,
    architecture: str,
    arguments: dict[str, Any],
    masking: str,
) -> None:
    own = build(MASKINGS.get(masking), {}, "masking") if masking else None
    method = make_method(name, backbone=arguments, masking=own)
    train(method, batch, contract)
    classes = method.num_classes
    info = CheckpointInfo(
        architecture=architecture, model_args=arguments, preprocess=contract, num_classes=classes, method=name
    )
    saved = load_file(save_checkpoint(tmp_path / "run", method.backbone, info).file(MODEL))
    fresh = timm.create_model(architecture, pretrained=False, num_classes=classes, **arguments)
    assert shapes(saved) == shapes(fresh.state_dict())
    fresh.load_state_dict(saved, strict=True)
    with torch.no_grad():
        expected = fresh.eval()(batch.images)
        assert torch.equal(method.backbone.eval()(batch.images), expected)
    assert expected.std(dim=0).max() > 1e-3  # outputs that are the same for all images would prove nothing
    assert_untouched(method.backbone, fresh)
    ships = {tensor.data_ptr() for tensor in method.backbone.state_dict().values()}
    assert not any(tensor.data_ptr() in ships for tensor in method.predictor_state().values())


def train(method: Method, batch: Batch, contract: Preprocess) -> None:
    """What a run does with a method: a step, the update, what follows it, and a picture; late enough for any guide."""
    late = dataclasses.replace(batch, epoch=50.0)
    before = {name: tensor.clone() for name, tensor in method.backbone.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    method(late, generator(0)).loss.backward()
    optimiser.step()
    method.after_step(late.epoch)
    draw(method, dataclasses.replace(late, index=None), contract)
    after = method.backbone.state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def assert_untouched(model: nn.Module, fresh: nn.Module) -> None:
    """Nothing lies in the modules of one that timm did not put into the other: no other way to call them, no hook."""
    for (path, module), (own_path, own) in zip(model.named_modules(), fresh.named_modules(), strict=True):
        # A parametrization changes the type.
        assert (path, type(module)) == (own_path, type(own))
        held = {name for name, value in vars(module).items() if value is not None}
        assert held <= set(vars(own)), path
        assert not [name for name in held if name.endswith("_hooks") and vars(module)[name]], path
