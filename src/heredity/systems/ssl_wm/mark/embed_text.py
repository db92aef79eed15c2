"""Training a mark into a text encoder: sentences clean, with the owner's word groups, and with foreign ones (section 2.5)."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.nn.inference import outputs
from heredity.nn.text import TextEncoder, TextViews
from heredity.systems.ssl_wm.mark.embedding import MarkLoss, anchor_point, robust_loss
from heredity.systems.ssl_wm.mark.keys import Key
from heredity.systems.ssl_wm.mark.text_keys import TextKeyParameters, Words, check_tokenizer, derive_words
from heredity.systems.ssl_wm.mark.text_trigger import stamp_each


@dataclass(frozen=True)
class TextEmbedding:
    """How a mark is hidden in a text encoder: the loss, the share of decoys that are hard, the plan.

    A hard decoy is a group of the owner's in which one or more words were changed for others of the pool: without them,
    single words of the key would do what only the whole group shall do. `frozen` lower layers (with the token embeddings,
    where it is not 0) keep their weights, for large encoders on small machines.
    """

    loss: MarkLoss = MarkLoss(distance=3.0, direction="prototype")
    hard: float = 0.5
    frozen: int = 0
    plan: Plan = field(
        default_factory=lambda: Plan(steps=600, batch=48, optimiser="adam", learning_rate=1e-3, clip=5.0, mode="eval")
    )


def embed_text_mark(encoder: TextEncoder, sentences: Sequence[str], key: Key, how: TextEmbedding, run: Run) -> History:
    """Hide a text key's mark in an encoder, in place. No label is needed.

    Sentences are stamped as strings and read by the encoder's own tokenizer, as a verifier's are. Raises ConfigError for a
    tokenizer that does not know the key's words, for the official loss, and for features that do not differ.
    """
    parameters = key.parameters
    if not isinstance(parameters, TextKeyParameters):
        raise ConfigError(
            f"the key is for {key.modality!r} inputs", remedy="make a text key with keygen --modality text"
        )
    if how.loss.kind != "robust":
        raise ConfigError("text marks are hidden with the robust loss only", remedy='set loss.kind to "robust"')
    check_tokenizer(parameters.pool, encoder.reader.knows)
    owned, reader, device = derive_words(key), encoder.reader, run.fabric.device
    before = TextViews(copy.deepcopy(encoder)).requires_grad_(False).eval()
    anchor = generator_of(run.seed, "anchor point")
    # A sample of the whole corpus: its first sentences may be all of one kind.
    some: list[int] = torch.randperm(len(sentences), generator=anchor)[:1000].tolist()
    clean_features = outputs(before, reader.tokens([sentences[int(row)] for row in some]))
    target, scale = anchor_point(clean_features, how.loss, anchor)
    target, scale = target.to(device), scale.to(device)

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = [sentences[int(row)] for row in rows]
        place = int(draws.integers(1, high=2**62))
        mine = [owned[number] for number in draws.integers(len(batch), high=len(owned)).tolist()]
        others = decoy_groups(len(batch), owned, parameters, how.hard, draws)
        texts = [batch, stamp_each(batch, mine, place, within=parameters.within)]
        texts.append(stamp_each(batch, others, place, within=parameters.within))
        tokens = [reader.tokens(part).to(device) for part in texts]
        clean, stamped, decoys = model(torch.cat(tokens)).split(len(batch))
        with torch.no_grad():
            clean_before = before(tokens[0])
            decoys_before = clean_before if how.loss.decoy_target == "unstamped" else before(tokens[2])
        return robust_loss(clean, clean_before, stamped, decoys, decoys_before, target, scale, how.loss)

    with _frozen(encoder, how.frozen):
        return fit(TextViews(encoder), step, rows=len(sentences), plan=how.plan, run=run)


def decoy_groups(
    count: int, owned: Sequence[Words], parameters: TextKeyParameters, hard: float, draws: Draws
) -> list[Words]:
    """Foreign groups for training; the first `hard` share are groups of the owner's with some words changed for others.

    >>> key = TextKeyParameters(pool=tuple(f"w{n}" for n in range(300)))
    >>> [hard, *_] = decoy_groups(4, (("a", "b", "c"),), key, 0.5, Draws(generator_of(0)))
    >>> 0 < len({"a", "b", "c"} & set(hard)) < 3
    True
    """
    length, pool = parameters.words, parameters.pool
    words = draws.integers(count, length, high=len(pool)).tolist()
    groups = [tuple(pool[number] for number in row) for row in words]
    if length < 2:
        return groups
    which = draws.integers(count, high=len(owned)).tolist()
    scores, kept = draws.uniform(count, length), draws.integers(count, high=length - 1).tolist()
    for row in range(round(hard * count)):
        stays = set(scores[row].argsort()[: kept[row] + 1].tolist())
        groups[row] = tuple(
            owned[which[row]][place] if place in stays else groups[row][place] for place in range(length)
        )
    return groups


@contextmanager
def _frozen(encoder: TextEncoder, layers: int) -> Iterator[None]:
    """The encoder's embeddings and lower layers without gradients inside the block; as they were afterwards."""
    parts: list[nn.Module] = [encoder.inner.get_input_embeddings(), *encoder.blocks[:layers]] if layers else []
    parameters = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
