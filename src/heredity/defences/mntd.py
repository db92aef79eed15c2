"""MNTD (Xu et al., S&P 2021): a classifier of models, which learns from many small clean and backdoored ones.

It is fitted for one architecture: `fit` makes shadow models of it, half of them with backdoors of all kinds ("jumbo
learning", section IV-B of the paper), and learns a few query images together with a classifier of the answers to them
(section IV-C). What comes back judges any model of that architecture by asking it those few images.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from heredity.core.errors import ConfigError, ModelError
from heredity.defences.contract import Cost, ModelVerdict, Threshold, calibrate, examining
from heredity.defences.repairing import labelled_clean
from heredity.metrics.detection import auroc

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class MetaAnalysis:
    """How many shadow models of each kind teach the meta-classifier, how many are kept back to judge it, how all learn.

    The threshold is the one that the clean shadows kept back exceed at `rate` at most; `judging` of them state no rate
    below 1 / (judging + 1). `tune_queries` False leaves the queries as they were drawn (the paper's ablation).
    The paper takes 2048 shadows of each kind and ten queries.
    """

    teaching: int = 24
    judging: int = 9
    rate: float = 0.1
    epochs: int = 25
    batch: int = 32
    learning_rate: float = 3e-3
    at_once: int = 22
    queries: int = 10
    tune_queries: bool = True
    hidden: int = 20
    steps: int = 300
    meta_rate: float = 1e-2


@dataclass(frozen=True)
class Planting:
    """A backdoor of a shadow model: stamped images are (1 - mask) image + mask pattern, a share of them, to the target."""

    mask: Float[Tensor, "1 h w"]
    pattern: Float[Tensor, "c h w"]
    share: float
    target: int


@dataclass(frozen=True)
class MetaClassifier:
    """Judges models of one architecture: call it with a model. `cost` is what fitting took, `measures` how well it went.

    Measures: "held-out AUROC" of the shadows kept back, "shadow accuracy" and "shadow success", medians over the shadows.
    """

    queries: Float[Tensor, "k c h w"]
    weights: Mapping[str, Tensor] = field(repr=False)
    threshold: Threshold
    cost: Cost
    measures: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> ModelVerdict:
        """The verdict about one model. Raises ModelError for another number of classes than the shadows'."""
        with examining(model) as ask:
            answers = ask.all(self.queries)
            if answers.numel() != self.weights["inner"].shape[1]:
                raise ModelError(
                    f"the model has {answers.shape[1]} classes, the shadow models had others",
                    remedy="fit the meta-classifier on images of the model's own classes",
                )
            score = float(_meta(self.weights, _scaled(answers)[None])[0])
            return ModelVerdict("MNTD", score, self.threshold, ask.cost(), measures=self.measures)


def fit(
    make: Make,
    images: Tensor,
    labels: Tensor,
    config: MetaAnalysis | None = None,
    *,
    generator: torch.Generator,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> MetaClassifier:
    """Learn what backdoored models of an architecture answer.

    `make` gives an untrained model of the suspects' architecture, with one logit a class. `images` are clean ones, uint8 or
    [0, 1], with one class number each; all shadows learn from them. Raises DataError for a class with fewer than two
    images, ConfigError where `judging` is too small for `rate`.

    >>> config = MetaAnalysis(teaching=1, judging=1, rate=0.5, epochs=1, steps=1)
    >>> images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    >>> def make():
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> found = fit(make, images, labels, config, generator=torch.Generator().manual_seed(0))
    >>> found(make()).threshold.false_positive_rate
    0.5
    """
    config = config or MetaAnalysis()
    if min(config.teaching, config.judging, config.queries, config.at_once) < 1:
        raise ConfigError("MNTD needs one shadow model of each kind and one query at least", remedy="see MetaAnalysis")
    if config.rate * (config.judging + 1) < 1 - 1e-9:
        raise ConfigError(
            f"{config.judging} clean models kept back state no false-positive rate below {1 / (config.judging + 1):.3g}",
            remedy="raise judging or rate",
        )
    unit, labels = labelled_clean(images, labels, per_class=2)
    classes = int(labels.max()) + 1
    each = config.teaching + config.judging
    plantings = [draw_planting(unit.shape[1:], classes, generator) for _ in range(each)]
    planted: list[Planting | None] = [one for pair in zip([None] * each, plantings, strict=True) for one in pair]
    network, began, states = _made(make, generator), time.perf_counter(), []
    for start in range(0, len(planted), config.at_once):
        tick(start, len(planted))
        states += train_shadows(make, unit, labels, planted[start : start + config.at_once], config, generator)
    tick(len(planted), len(planted))
    worth = [_worth(network, state, one, unit, labels) for state, one in zip(states, planted, strict=True)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    guilty = torch.tensor([one is not None for one in planted])
    teaching = torch.arange(len(planted)) < 2 * config.teaching
    taught = {name: value[teaching] for name, value in stacked.items()}
    queries, weights = learn_meta(network, taught, guilty[teaching], unit, classes, config, generator)
    scores = _meta(weights, answers_of(network, stacked, queries))
    kept_back = [scores[~teaching & (guilty == kind)].tolist() for kind in (False, True)]
    asked = (
        len(planted) * (config.epochs * len(unit) + config.queries)
        + 2 * config.teaching * config.queries * config.steps
    )
    measures = {
        "held-out AUROC": auroc(kept_back[1], kept_back[0]),
        "shadow accuracy": float(torch.tensor([one["accuracy"] for one in worth]).median()),
        "shadow success": float(torch.tensor([one["success"] for one in worth if "success" in one]).median()),
    }
    threshold = calibrate(kept_back[0], config.rate, source="clean models")
    return MetaClassifier(
        queries.detach().cpu(), weights, threshold, Cost(time.perf_counter() - began, asked), measures
    )


def draw_planting(shape: Sequence[int], classes: int, generator: torch.Generator) -> Planting:
    """A random backdoor: a patch of any place, size, colour and strength, or a faint noise over the whole image.

    Half of each kind; 5 to 50 % of the images; any target (the paper's jumbo distribution, section IV-B).
    """
    channels, height, width = shape

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    pattern = torch.rand(channels, height, width, generator=generator)
    mask = torch.zeros(1, height, width)
    if uniform(0, 1) < 0.5:
        mask += uniform(0.05, 0.2)
    else:
        side = whole(min(2, height, width), max(2, min(height, width) // 4))
        top, left = whole(0, height - side), whole(0, width - side)
        mask[:, top : top + side, left : left + side] = 1.0 if uniform(0, 1) < 0.5 else uniform(0.2, 0.6)
    return Planting(mask, pattern, uniform(0.05, 0.5), whole(0, classes - 1))


def train_shadows(
    make: Make,
    unit: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    planted: Sequence[Planting | None],
    config: MetaAnalysis,
    generator: torch.Generator,
) -> list[dict[str, Tensor]]:
    """Weights and buffers of shadow models, all trained in one loop over stacked weights (`torch.func.vmap`).

    Batch normalisation learns with each batch's own statistics; afterwards one pass over the images sets the kept ones.
    """
    networks = [_made(make, generator) for _ in planted]
    body = _made(make, generator)
    for module in body.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    weights = {
        name: torch.stack([dict(network.named_parameters())[name].detach() for network in networks]).requires_grad_()
        for name, _ in body.named_parameters()
    }
    fixed = dict(body.named_buffers())
    device = next(iter(weights.values())).device
    unit, labels, count = unit.to(device), labels.to(device), len(planted)
    masks = torch.stack([torch.zeros_like(unit[0, :1]) if one is None else one.mask.to(device) for one in planted])
    patterns = torch.stack([torch.zeros_like(unit[0]) if one is None else one.pattern.to(device) for one in planted])
    targets = torch.tensor([-1 if one is None else one.target for one in planted], device=device)
    shares = torch.tensor([0.0 if one is None else one.share for one in planted])
    poisoned = (torch.rand(count, len(unit), generator=generator) < shares[:, None]).to(device)
    told = torch.where(poisoned, targets[:, None], labels)

    def loss(state: dict[str, Tensor], pixels: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(body, (state, fixed), (255.0 * pixels,)), wanted)

    batches = -(-len(unit) // config.batch)
    optimiser = torch.optim.Adam(weights.values(), config.learning_rate)
    falling = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.epochs * batches + 1
    )
    with torch.enable_grad():
        for _ in range(config.epochs):
            orders = torch.rand(count, len(unit), generator=generator).argsort(dim=1).to(device)
            for rows in orders.split(config.batch, dim=1):
                stamp = masks[:, None] * poisoned.gather(1, rows)[..., None, None, None]
                pixels = (1 - stamp) * unit[rows] + stamp * patterns[:, None]
                optimiser.zero_grad()
                vmap(loss, randomness="different")(weights, pixels, told.gather(1, rows)).sum().backward()
                optimiser.step()
                falling.step()
    states = []
    for number, network in enumerate(networks):
        network.load_state_dict({name: value[number].detach() for name, value in weights.items()}, strict=False)
        _settle(network, unit)
        states.append({name: value.detach() for name, value in network.state_dict().items()})
    return states


def learn_meta(
    network: nn.Module,
    shadows: Mapping[str, Tensor],
    guilty: Tensor,
    unit: Float[Tensor, "n c h w"],
    classes: int,
    config: MetaAnalysis,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Query images, and the weights of the classifier of the answers to them, learnt together (equation 5 of the paper)."""
    device = next(network.parameters()).device
    drawn = unit.mean(0) + unit.std(0) * torch.randn(config.queries, *unit.shape[1:], generator=generator)
    queries = drawn.clamp(0, 1).to(device).requires_grad_(config.tune_queries)
    sizes = {"inner": (config.hidden, config.queries * classes), "outer": (1, config.hidden)}
    weights = {
        name: (torch.randn(size, generator=generator) / size[1] ** 0.5).to(device).requires_grad_()
        for name, size in sizes.items()
    }
    weights |= {"inner bias": torch.zeros(config.hidden, device=device).requires_grad_()}
    wanted = guilty.float().to(device)
    learnt = [*weights.values(), *([queries] if config.tune_queries else [])]
    optimiser = torch.optim.Adam(learnt, config.meta_rate)
    with torch.enable_grad():
        for _ in range(config.steps):
            optimiser.zero_grad()
            scores = _meta(weights, answers_of(network, shadows, queries))
            F.binary_cross_entropy_with_logits(scores, wanted).backward()
            optimiser.step()
            with torch.no_grad():
                queries.clamp_(0, 1)
    return queries, {name: value.detach() for name, value in weights.items()}


def answers_of(
    network: nn.Module, shadows: Mapping[str, Tensor], queries: Float[Tensor, "k c h w"]
) -> Float[Tensor, "models answers"]:
    """What stacked models answer to the queries: k times classes logits each."""

    def one(state: dict[str, Tensor]) -> Tensor:
        return _scaled(functional_call(network, state, (255.0 * queries,)))

    return vmap(one)(dict(shadows))


def _scaled(logits: Float[Tensor, "k classes"]) -> Float[Tensor, "answers"]:
    # A constant added to a query's logits says nothing, and how large they are tells how long a model was trained.
    centred = logits - logits.mean(dim=1, keepdim=True)
    return (centred / (centred.square().mean().sqrt() + 1e-6)).flatten()


def _meta(weights: Mapping[str, Tensor], answers: Float[Tensor, "models answers"]) -> Float[Tensor, "models"]:
    inner = answers.to(weights["inner"].device) @ weights["inner"].T
    return (torch.relu(inner + weights["inner bias"]) @ weights["outer"].T).flatten()


def _made(make: Make, generator: torch.Generator) -> nn.Module:
    """A fresh model in eval mode, its weights drawn from the generator and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31 - 1, (1,), generator=generator)))
        return make().eval().requires_grad_(False)


def _settle(network: nn.Module, unit: Tensor) -> None:
    """Set what batch normalisation keeps to the averages over the images."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in unit.split(64):
            network(255.0 * part)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    network.eval()


def _worth(
    network: nn.Module, state: Mapping[str, Tensor], planted: Planting | None, unit: Tensor, labels: Tensor
) -> dict[str, float]:
    """Accuracy of a shadow on the images it learnt from, and its attack success on those of other classes."""
    device = next(network.parameters()).device

    def called(images: Tensor) -> Tensor:
        with torch.no_grad():
            return functional_call(network, dict(state), (255.0 * images.to(device),)).argmax(dim=1).cpu()

    found = {"accuracy": float((called(unit) == labels).float().mean())}
    if planted is not None:
        others = unit[labels != planted.target]
        stamped = (1 - planted.mask) * others + planted.mask * planted.pattern
        found["success"] = float((called(stamped) == planted.target).float().mean())
    return found
