"""A process that has imported everything, and forks the processes of a run as torchrun would start them.

Not a test: `test_processes.py` starts it. Each line of stdin is a job in JSON:

    count       processes
    arguments   of `edgemim`; or `function`, the name of one below, called as function(rank, team, **its values)
    signals     by rank: [step, number] of a signal that this process gets at the end of a step
    not_finite  by rank: the step at which its loss is no number
    folder      gets `rank-<r>.out`, `rank-<r>.err`, and `rank-<r>.seen`: a line in JSON for each pass, with step,
                epochs and indices of its images, the visible patches, and a digest of what the method keeps beside its
                weights (a copy that follows, a memory)

and is answered by a line with the exit codes, minus the signal where one ended a process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # loaded once, not in every fork
from safetensors.torch import save, save_file

from edgemim.cli import build_app, main
from edgemim.data.sources import SOURCES
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods._corruption import Corrupted
from edgemim.methods.mae import MAE
from edgemim.methods.sit import SiT, SiTSettings
from edgemim.methods.spark import SparK, SparKSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sharding import shard
from edgemim.models.teachers import load_teacher
from edgemim.preprocess import Preprocess
from edgemim.training import finetune, pretrain  # noqa: F401
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.processes import Team, processes

PATIENCE_S = 100


def watch(job: dict[str, Any], rank: int) -> None:
    """Write down what this process sees, and let happen to it what the job says."""
    seen = Path(job["folder"]) / f"rank-{rank}.seen"
    seen.touch()
    at, number = job.get("signals", {}).get(str(rank), (-1, 0))
    not_finite = job.get("not_finite", {}).get(str(rank), -1)
    step, draw, forward = TrainingModule.training_step, MAE.draw, MAE.forward
    now: dict[str, Any] = {}

    def training_step(self: Any, raw: Any, batch_idx: int) -> Any:
        now.update(step=self.global_step, index=raw["index"].tolist(), epoch=raw["epoch"].tolist())
        kept = {k: v for k, v in self.method.state_dict().items() if k.startswith(("momentum.", "memory."))}
        now["kept"] = hashlib.sha256(save({k: v.contiguous() for k, v in kept.items()})).hexdigest()
        loss = step(self, raw, batch_idx)
        with open(seen, "a") as stream:
            stream.write(json.dumps(now) + "\n")
        now.clear()
        return loss

    def drawn(self: Any, *arguments: Any) -> Any:
        plan = draw(self, *arguments)
        if now:
            now["visible"] = plan.keep_ids.tolist()
        return plan

    def lost(self: Any, *arguments: Any) -> Any:
        made = forward(self, *arguments)
        return dataclasses.replace(made, loss=made.loss * float("nan")) if now.get("step") == not_finite else made

    def at_end(self: Any, *_: Any) -> None:
        if self.trainer.global_step == at:
            os.kill(os.getpid(), number)

    TrainingModule.training_step = training_step  # type: ignore[method-assign]
    TrainingModule.on_train_batch_end = at_end  # type: ignore[method-assign]
    MAE.draw = drawn  # type: ignore[method-assign]
    MAE.forward = lost  # type: ignore[method-assign]


def told(rank: int, team: Team) -> None:
    """What processes tell each other, printed."""
    mean = team.mean({"a": torch.tensor(float(rank)), "b": torch.tensor(2.0)})
    print(json.dumps([team.gather({"rank": rank}), team.of_first(lambda: ["only", rank]), mean["a"].item()]))


def features(rank: int, team: Team, source: str, backbone: dict[str, Any]) -> None:
    """Greatest difference between the features of a whole teacher and of one that is spread, and its share here."""
    contract = Preprocess(size=(32, 32))
    whole, spread = (load_teacher(source, backbone, student=contract) for _ in range(2))
    assert team.device is not None
    shard(spread, team.device)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(rank))
    asked: list[dict[str, Any]] = [
        {},
        {"taps": [0, 1], "stop_early": True},
        {"qkv": [1], "stop_early": True},
        {"qkv": [0], "taps": [1]},
    ]
    greatest = 0.0
    for wanted in asked:
        a, b = whole(images, **wanted), spread(images, **wanted)
        pairs = [(a.taps[i], b.taps[i]) for i in a.taps] + [(a.qkv[i].keys, b.qkv[i].keys) for i in a.qkv]
        pairs += [] if a.tokens is None else [(a.tokens, b.final)]
        greatest = max(greatest, *(float((x - y).abs().max()) for x, y in pairs))
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else 0 for p in spread.parameters())
    print(json.dumps([greatest, held, sum(p.numel() for p in whole.model.blocks.parameters())]))


def share(rank: int, team: Team, method: str, file: str) -> None:
    """Loss, gradients and buffers of one pass of `method` over this process's share of a batch, into `file`-<rank>."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made, batch = _sit() if method == "sit" else _spark()
    with torch.no_grad():
        for parameter in made.parameters():  # also of a copy, which then is none, and of norms that begin with zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    first, last = (len(batch.images) * i // team.count for i in (rank, rank + 1))

    def cut(whole: Batch) -> Batch:
        return Batch(whole.images[first:last], second=None if whole.second is None else cut(whole.second))

    plan = MaskPlan.from_keep_ids(torch.tensor([[0, 3], [1, 2], [2, 3], [0, 1]])[first:last], (2, 2))
    loss = made(cut(batch), torch.Generator().manual_seed(0), plan).loss
    loss.backward()
    found = {f"gradient.{name}": p.grad for name, p in made.named_parameters() if p.grad is not None}
    found |= {f"buffer.{name}": b.float() for name, b in made.named_buffers()}
    save_file({"loss": loss.detach(), **found}, f"{file}-{rank}")


def _sit() -> tuple[Method, Batch]:
    """SiT on four images; of each it hides the same places, as what it draws is another part of the batch's numbers."""
    arguments = {"embed_dim": 32, "depth": 4, "num_heads": 2, "patch_size": 8, "img_size": 32}
    adapter = adapt(build_backbone("vit_tiny_patch16_224", arguments))
    method = SiT(adapter, RandomMasking(), SiTSettings(projector_width=16, projector_outputs=8))
    hidden = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    hidden[..., 4:20, 8:30] = True

    def corrupt(images: torch.Tensor, rng: torch.Generator) -> Corrupted:
        return Corrupted(images.masked_fill(hidden, 0), hidden.expand(len(images), -1, -1, -1))

    method.corruption = corrupt
    images, others = torch.randn(2, 4, 3, 32, 32)
    return method, Batch(images, second=Batch(others))


def _spark() -> tuple[Method, Batch]:
    """SparK of a ResNet on four images; of the decoder's norms only those of levels are joint, so the others rest."""
    adapter = adapt(build_backbone("test_resnet", {}), (64, 64))
    method = SparK(adapter, RandomMasking(mask_ratio=0.5), SparKSettings(decoder_width=32))
    method.cells.decoder.grow.eval()
    return method, Batch(torch.randn(4, 3, 64, 64) + torch.arange(4).view(4, 1, 1, 1))


def run(job: dict[str, Any], rank: int, port: int) -> int:
    """The fork: one process of a run, to its end."""
    for descriptor, name in ((1, "out"), (2, "err")):
        file = Path(job["folder"]) / f"rank-{rank}.{name}"
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    count = job["count"]
    if count > 1:
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in here.items()}})
    watch(job, rank)
    try:
        if "function" in job:
            with processes() as team:
                {"told": told, "features": features, "share": share}[job["function"]](rank, team, **job["values"])
        else:
            sys.argv = ["edgemim", *job["arguments"]]
            main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def wait(forks: list[int]) -> list[int]:
    """Exit codes of the forks, which are killed when they take too long."""
    codes: dict[int, int] = {}
    end = time.monotonic() + PATIENCE_S
    while len(codes) < len(forks):
        for fork in [f for f in forks if f not in codes]:
            done, status = os.waitpid(fork, os.WNOHANG)
            if done:
                codes[fork] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(fork, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[fork] for fork in forks]


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    build_app()
    for name in SOURCES.names():
        SOURCES.get(name)
    for line in sys.stdin:
        job = json.loads(line)
        port, forks = free_port(), []
        for rank in range(job["count"]):
            fork = os.fork()
            if fork == 0:
                code = 99
                try:
                    code = run(job, rank, port)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            forks.append(fork)
        sys.stdout.write(json.dumps(wait(forks)) + "\n")
        sys.stdout.flush()
