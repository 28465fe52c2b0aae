"""How good frozen features are: a k-nearest-neighbour vote and a linear probe.

Source: k-NN as in Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR
2018, arXiv:1805.01978, section 3.4 (cosine similarity, votes weighted by exp(similarity / 0.07)).
Differs: k = 20 as later work uses; the probe is a multinomial logistic regression on standardised features
    (the standardisation stands for the affine-free batch norm of He et al., arXiv:2111.06377, appendix A),
    fitted by L-BFGS on unaugmented images instead of SGD on augmented ones.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 2048


@torch.inference_mode()
def knn_top1(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test images whose class a weighted vote of their neighbours names.

    Args:
        train, test: Features [N, D] and [M, D].
        train_labels, test_labels: int64 [N] and [M].
        k: Neighbours, at most N.
        temperature: Of the votes' weights.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    correct = 0
    for start in range(0, len(test), _BLOCK):
        similarity, neighbours = (test[start : start + _BLOCK] @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(similarity), classes)
        votes.scatter_add_(1, train_labels[neighbours], (similarity / temperature).exp())
        correct += int((votes.argmax(dim=1) == test_labels[start : start + _BLOCK]).sum())
    return correct / len(test)


def linear_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Share of test images that a linear classifier of frozen features gets right; arguments as `knn_top1`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    std, mean = torch.std_mean(train, dim=0)
    scale = std.clamp(min=1e-6)
    classifier: Any = LogisticRegression(C=0.1, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(((train - mean) / scale).numpy(), train_labels.numpy())
    return float(classifier.score(((test - mean) / scale).numpy(), test_labels.numpy()))
