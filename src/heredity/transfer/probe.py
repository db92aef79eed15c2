"""Linear probe: the encoder stays as it is, only a linear head is trained."""

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from heredity.core.errors import DataError
from heredity.core.run import Run
from heredity.nn.encoders import Classifier
from heredity.nn.inference import outputs
from heredity.transfer.task import Task


def fit_head(
    features: Float[Tensor, "n d"], labels: Int[Tensor, "n"], *, classes: int, penalty: float = 1.0
) -> tuple[Float[Tensor, "classes d"], Float[Tensor, "classes"]]:
    """Weights and bias of a multinomial logistic regression, which is the optimum that training a linear head heads for.

    Raises DataError when fewer than two classes are present.
    """
    present = np.unique(labels.numpy())
    if len(present) < 2:
        raise DataError("all training labels are the same class", remedy="give labelled images of at least two classes")
    scaler = StandardScaler().fit(features.numpy())
    spread = np.asarray(scaler.scale_)
    # A unit that is all but constant (MiniLM has one) would get a weight so large that fine-tuning starts with a huge loss.
    scaler.scale_ = np.where(spread < 1e-6 * spread.max(), 1.0, spread)
    solved = LogisticRegression(C=1.0 / penalty, max_iter=2000).fit(scaler.transform(features.numpy()), labels.numpy())
    slopes, offsets = np.asarray(solved.coef_), np.asarray(solved.intercept_)
    if len(present) == 2:
        slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
    slopes = slopes / np.asarray(scaler.scale_)
    offsets = offsets - slopes @ np.asarray(scaler.mean_)
    weight, bias = torch.zeros(classes, features.shape[1]), torch.full((classes,), -1e4)
    weight[present], bias[present] = (
        torch.tensor(slopes, dtype=torch.float32),
        torch.tensor(offsets, dtype=torch.float32),
    )
    return weight, bias


def probe(encoder: nn.Module, task: Task, *, run: Run, name: str, penalty: float = 1.0) -> Classifier:
    """A classifier on the unchanged encoder: the thief who trains a head and nothing else."""
    images, labels = task.train
    features = outputs(encoder, images)

    def train(child: nn.Module) -> None:
        assert isinstance(child, Classifier)
        weight, bias = fit_head(features, labels, classes=task.classes, penalty=penalty)
        with torch.no_grad():
            child.head.weight.copy_(weight)
            child.head.bias.copy_(bias)

    return run.model(
        name,
        make=lambda: Classifier(copy.deepcopy(encoder), features=features.shape[1], classes=task.classes),
        train=train,
        made_by="linear probe",
        parents=[encoder],
        settings={"task": task.name, "penalty": penalty},
    )
