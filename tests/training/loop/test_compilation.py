"""Compiled blocks: which there are, when they pay, where they are used, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.dmae import DMAE, DMAESettings
from edgemim.methods.mae import MAE, MAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgemim.training.loop import compilation
from edgemim.training.loop.compilation import Work, compiled, training_flops, transformer_blocks, worth_compiling
from edgemim.training.saving.save import Interrupted

# torch hides this one of its own, but not from a filter that makes errors of warnings.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

CPU = torch.device("cpu")
SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "num_heads": 2, "depth": 3}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_mae(**arguments: Any) -> MAE:
    torch.manual_seed(0)
    adapter = adapt(build_backbone("vit_tiny_patch16_224", {**SHAPE, **arguments}))
    return MAE(adapter, RandomMasking(), MAESettings(decoder_width=32, decoder_depth=3, decoder_heads=2)).train()


def make_dmae() -> DMAE:
    torch.manual_seed(0)
    student, taught = (adapt(build_backbone("vit_tiny_patch16_224", {**SHAPE, "depth": d})) for d in (3, 4))
    origin = TeacherOrigin(source="test", architecture="vit", licence="MIT", sha256=None)
    contract = Preprocess(size=(16, 16))
    teacher = Teacher(taught, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    settings = DMAESettings(decoder_width=32, decoder_depth=2, decoder_heads=2)
    return DMAE(student, RandomMasking(), settings, teacher).train()


def work(**changes: Any) -> Work:
    return Work(**{"device": CPU, "precision": "32-true", "size": (16, 16), "steps": 100, "images": 1_000, **changes})


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and guarded as ever, but run by torch's own kernels: no C++ compiler is needed."""
    monkeypatch.setattr(compilation, "_FORM", {"dynamic": False, "backend": "eager"})
    monkeypatch.setattr(compilation, "compiler_refusal", lambda device: None)
    torch._dynamo.reset()


def batch(images: int = 4) -> Batch:
    return Batch(torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def step(method: Method, rng: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a step, drop path included."""
    torch.manual_seed(rng)
    method.zero_grad()
    loss = method(batch(), torch.Generator().manual_seed(rng)).loss
    loss.backward()
    return loss.detach(), {k: p.grad for k, p in method.named_parameters() if p.grad is not None}


def frames() -> int:
    """Functions that have been traced since the last reset."""
    return int(sum(torch._dynamo.utils.counters["frames"].values()))


def test_the_blocks_of_student_decoder_and_teacher_are_found_and_no_others() -> None:
    assert len(transformer_blocks(make_mae())) == 3 + 3
    assert len(transformer_blocks(make_dmae())) == 3 + 2 + 4
    swin = build_backbone("swin_tiny_patch4_window7_224", {"img_size": 56, "window_size": 7, "depths": (1, 1, 1, 1)})
    assert len(transformer_blocks(swin)) == 4
    assert transformer_blocks(build_backbone("mobilenetv4_conv_small", {})) == []


def test_flops_count_three_passes_over_what_is_trained_and_one_over_what_is_not() -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_backbone("vit_tiny_patch16_224", {**SHAPE, "depth": 1})
            self.extra = nn.Linear(10, 10, bias=False).requires_grad_(False)

    task = Task()
    parameters = sum(p.numel() for p in task.model.parameters())
    assert training_flops(task, (16, 16), 7) == (6 * parameters + 2 * 100) * 16 * 7


@pytest.mark.parametrize(
    ("changes", "worth"),
    [
        ({}, False),
        ({"images": 10**12}, True),
        ({"images": 10**12, "precision": "bf16-mixed"}, False),
        ({"images": 10**12, "device": torch.device("mps")}, False),
        ({"device": torch.device("cuda"), "precision": "bf16-mixed", "steps": 10**6}, True),
        ({"device": torch.device("cuda"), "precision": "bf16-mixed", "steps": 200}, False),
    ],
)
def test_only_a_long_run_with_fitting_arithmetic_is_worth_it(changes: dict[str, Any], worth: bool) -> None:
    assert worth_compiling(make_mae(), work(**changes)) is worth


def test_a_network_of_many_kinds_of_blocks_must_train_for_longer() -> None:
    alike, unlike = make_mae(), make_mae(drop_path_rate=0.3)
    device = torch.device("cuda")
    least = next(n for n in range(0, 10**6, 500) if worth_compiling(alike, work(device=device, steps=n)))
    assert not worth_compiling(unlike, work(device=device, steps=least))


def test_a_convolutional_network_is_left_alone() -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_backbone("mobilenetv4_conv_small", {})

    with compiled(Task(), "on", work(images=10**15)) as done:
        assert not done


@pytest.mark.parametrize(("wanted", "images"), [("off", 10**12), ("auto", 1_000)])
def test_a_run_that_does_not_want_it_hears_nothing_of_it(
    wanted: Any, images: int, capsys: pytest.CaptureFixture[str], no_code: None
) -> None:
    method = make_mae()
    with compiled(method, wanted, work(images=images)) as done:
        step(method)
    assert not done
    assert capsys.readouterr().err == ""


def test_blocks_are_compiled_in_the_methods_own_calls_and_nowhere_else(no_code: None) -> None:
    method = make_mae()
    plain = step(method)
    torch._dynamo.utils.counters.clear()
    plan = method.draw(batch(), torch.Generator().manual_seed(0))
    with compiled(method, "on", work()) as done:
        assert done
        method.reconstruct(batch(2), plan=method.draw(batch(2), torch.Generator()))
        assert frames() == 0
        step(method)
        traced = frames()
        assert traced > 0
        method.reconstruct(batch(), plan)
        method.adapter.forward(batch(3).images)
        found = step(method)
        assert frames() == traced  # nothing was compiled again
    assert torch.equal(found[0], plain[0])
    assert all(torch.equal(found[1][name], plain[1][name]) for name in plain[1])
    method(batch(5), torch.Generator())
    assert frames() == traced


def test_blocks_that_are_alike_share_one_function(no_code: None) -> None:
    torch._dynamo.utils.counters.clear()
    method = make_mae()
    with compiled(method, "on", work()):
        step(method)
    # The encoder's, and the decoder's last, which predicts less than the others.
    assert frames() / 2 <= 3


def test_an_error_in_a_step_leaves_plain_blocks_behind(no_code: None) -> None:
    method = make_mae()
    torch._dynamo.utils.counters.clear()
    with compiled(method, "on", work()):
        with pytest.raises(RuntimeError, match="shape"):
            method(Batch(torch.zeros(2, 3, 24, 24)), torch.Generator())
        method.adapter.forward(batch().images)
        assert frames() == 0


def test_names_of_tensors_stay(no_code: None) -> None:
    method = make_dmae()
    names = list(method.state_dict())
    with compiled(method, "on", work()):
        step(method)
        assert list(method.state_dict()) == names
    assert list(method.state_dict()) == names


def test_drop_path_draws_the_same_numbers(no_code: None) -> None:
    method = make_mae(drop_path_rate=0.5)
    plain = step(method, rng=8)[0]
    assert plain != step(method, rng=9)[0]
    with compiled(method, "on", work()):
        assert torch.equal(step(method, rng=8)[0], plain)


def test_queries_and_keys_are_read_from_a_compiled_network(no_code: None) -> None:
    from edgemim.methods.minilm import MiniLM

    torch.manual_seed(0)
    student, taught = (adapt(build_backbone("vit_tiny_patch16_224", {**SHAPE, "depth": d})) for d in (3, 4))
    origin = TeacherOrigin(source="test", architecture="vit", licence="MIT", sha256=None)
    contract = Preprocess(size=(16, 16))
    teacher = Teacher(taught, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    method = MiniLM(student, RandomMasking(), MiniLM.Settings(), teacher).train()
    plain = step(method)[0]
    with compiled(method, "on", work()):
        assert torch.equal(step(method)[0], plain)
        assert torch.equal(step(method)[0], plain)


def test_without_a_compiler_on_is_refused_and_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compilation, "compiler_refusal", lambda device: "no g++ here")
    method = make_mae()
    with (
        pytest.raises(ConfigError, match=r"^training\.compile 'on' needs .*no g\+\+ here; install .*off$"),
        compiled(method, "on", work()),
    ):
        pass
    with compiled(method, "auto", work(images=10**12)) as done:
        assert not done
    assert "not compiled" in capsys.readouterr().err


@pytest.mark.slow
def test_generated_code_gives_the_same_loss_curve_and_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    assert compilation.compiler_refusal(CPU) is None
    curves = []
    for wanted in ("off", "on"):
        method = make_mae(drop_path_rate=0.2)
        optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
        with compiled(method, wanted, work()):  # type: ignore[arg-type]
            losses = []
            for n in range(20):
                losses.append(step(method, rng=n)[0])
                optimiser.step()
        curves.append(torch.stack(losses))
    assert curves[0][-1] < curves[0][0]
    # float32: fused kernels round in another order, and twenty updates carry the difference on.
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=0)
    assert "compiling" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_noticed() -> None:
    import torch._inductor.config

    torch._dynamo.reset()
    # Its own way to set an option and set it back: undone by hand the option would be gone.
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert compilation.compiler_refusal(CPU)


def weights(method: Method) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


def test_a_run_uses_it_and_draws_and_saves_as_ever(
    train: Callable[..., Any],
    make_mae: Callable[..., Method],
    run_settings: Callable[..., Any],
    tmp_path: Path,
    no_code: None,
) -> None:
    ends = []
    for wanted in ("off", "on"):
        torch._dynamo.utils.counters.clear()
        method = make_mae()
        train(method, run_settings(training={"steps": 3, "compile": wanted}), tmp_path / wanted)
        assert (frames() > 0) == (wanted == "on")
        ends.append(weights(method))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.slow
def test_a_compiled_run_that_was_stopped_ends_like_one_that_was_not(
    train: Callable[..., Any], make_mae: Callable[..., Method], run_settings: Callable[..., Any], tmp_path: Path
) -> None:
    settings = run_settings(training={"steps": 6, "compile": "on"})
    whole, half = make_mae(), make_mae(seed=9)
    train(whole, settings, tmp_path / "whole")
    torch._dynamo.reset()  # as a new process
    with pytest.raises(Interrupted):
        train(make_mae(), settings, tmp_path / "run", stop_at=3)
    torch._dynamo.reset()
    train(half, settings, tmp_path / "run", resume=True)
    ended, wanted = weights(half), weights(whole)
    assert all(torch.equal(ended[name], wanted[name]) for name in wanted)
