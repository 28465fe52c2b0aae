"""Which parameters a loss does not depend on, known before the first step.

Processes that average gradients as these become ready have to know for which they wait: to ask in each step costs a
walk through the graph and, where there are such parameters, a wait for the device.
"""

from __future__ import annotations

import torch

from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.module import TrainingModule

_IMAGES = 2


def unused_parameters(module: TrainingModule, images: AugmentedImages) -> list[str]:
    """Names of trainable parameters that a step leaves out; one pass over a few images, on the host.

    Args:
        module: Left as it is, with no gradients and its statistics untouched.
        images: The training images.
    """
    count = max(_IMAGES, getattr(module.method, "group", 1))
    raw = images.__getitems__([(0, index % len(images)) for index in range(count)])
    training = module.training
    module.eval()  # norms of a batch would take these images into their statistics
    with torch.random.fork_rng(devices=[]):
        loss = module.method(module.batch(raw), torch.Generator().manual_seed(0)).loss
    module.train(training)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    return [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
