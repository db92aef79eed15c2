"""Masked language modelling (Devlin et al. 2019): hide some words of a sentence and predict them from the others."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.nn.text import Reader, TextEncoder
from heredity.pretrain.objective import Objective


@dataclass(frozen=True)
class MLM:
    """Recipe: share of hidden tokens, and the plan."""

    mask: float = 0.15
    plan: Plan = field(
        default_factory=lambda: Plan(epochs=10, batch=64, learning_rate=2e-3, schedule="one-cycle", weight_decay=0.01)
    )


class MaskedLanguageModel(nn.Module):
    """An encoder with BERT's prediction head, whose output matrix is the matrix of token embeddings.

    `forward(tokens, hidden)` gives scores over the vocabulary for hidden places only: the others cost nothing.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        embedding = encoder.inner.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise ModelError("masked language modelling needs an encoder with token embeddings", remedy="choose a BERT")
        self.embedding: nn.Embedding = embedding
        width, inner = int(encoder.inner.config.hidden_size), embedding.embedding_dim
        self.transform = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner))
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))

    def forward(
        self, tokens: Int[Tensor, "n length"], hidden: Bool[Tensor, "n length"]
    ) -> Float[Tensor, "places words"]:
        states, _, _ = self.encoder.states(tokens)
        return F.linear(self.transform(states[hidden[:, : states.shape[1]]]), self.embedding.weight, self.bias)


def hide(
    tokens: Int[Tensor, "n length"], reader: Reader, share: float, draws: Draws
) -> tuple[Int[Tensor, "n length"], Bool[Tensor, "n length"]]:
    """Tokens with a share of the ordinary ones hidden, and where: 80 % become [MASK], 10 % any token, 10 % stay (3.1).

    A row without any chosen token gets one, so that no sentence is wasted.
    """
    special = torch.tensor(sorted(reader.special), device=tokens.device)
    scores = draws.uniform(*tokens.shape).to(tokens.device).masked_fill(torch.isin(tokens, special), 2.0)
    first = scores == scores.min(dim=1, keepdim=True).values
    hidden = ((scores < share) | first) & (scores < 2.0)
    fate = draws.uniform(*tokens.shape).to(tokens.device)
    others = reader.ordinary[draws.integers(*tokens.shape, high=len(reader.ordinary))].to(tokens.device)
    shown = torch.where(hidden & (fate < 0.8), reader.mask, tokens)
    return torch.where(hidden & (fate >= 0.9), others, shown), hidden


def mlm_objective(encoder: TextEncoder, tokens: Int[Tensor, "n length"], recipe: MLM) -> Objective:
    """The module that masked language modelling trains and its step."""
    model = MaskedLanguageModel(encoder)

    def step(wrapped: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = tokens[rows.cpu()].to(rows.device)
        shown, hidden = hide(batch, encoder.reader, recipe.mask, draws)
        return {"prediction": F.cross_entropy(wrapped(shown, hidden), batch[hidden])}

    return Objective(model, step)


def mlm(encoder: TextEncoder, tokens: Int[Tensor, "n length"], recipe: MLM, run: Run) -> History:
    """Pre-train a text encoder in place without labels. The prediction head is thrown away."""
    objective = mlm_objective(encoder, tokens, recipe)
    return fit(objective.module, objective.step, rows=len(tokens), plan=recipe.plan, run=run)
