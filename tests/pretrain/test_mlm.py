from typing import cast

import torch
from torch import nn

from heredity.core.loop import Plan
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.nn.text import TextEncoder, TextShape, make_text_encoder, train_reader
from heredity.pretrain.mlm import MLM, MaskedLanguageModel, hide, mlm

CORPUS = [f"the {animal} eats the {food}" for animal in ("cat", "dog", "owl") for food in ("fish", "bone", "mouse")] * 8
SHAPE = TextShape(width=16, feed_forward=32, length=8)
READER = train_reader(CORPUS, SHAPE)


def test_hidden_tokens_are_ordinary_ones_in_the_published_shares() -> None:
    tokens = READER.tokens(CORPUS).repeat(50, 1)
    shown, hidden = hide(tokens, READER, 0.3, Draws(generator_of(0)))
    special = torch.tensor(sorted(READER.special))
    assert not torch.isin(tokens[hidden], special).any()
    assert hidden.any(dim=1).all()
    assert torch.equal(shown[~hidden], tokens[~hidden])
    masked = (shown[hidden] == READER.mask).float().mean()
    kept = (shown[hidden] == tokens[hidden]).float().mean()
    assert abs(masked - 0.8) < 0.03
    assert 0.09 < kept < 0.14


def test_scores_at_hidden_places_are_those_of_the_whole_sentence() -> None:
    model = MaskedLanguageModel(make_text_encoder(SHAPE, READER)).eval()
    tokens = READER.tokens(CORPUS[:4])
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[:, 2] = True
    with torch.no_grad():
        states, _, _ = model.encoder.states(tokens)
        expected = nn.functional.linear(model.transform(states[:, 2]), model.embedding.weight, model.bias)
        assert torch.allclose(model(tokens, hidden), expected, atol=1e-5)


def test_the_loss_falls_below_that_of_guessing() -> None:
    with Run.temporary() as run:
        run.model(
            "bert",
            make=lambda: make_text_encoder(SHAPE, READER),
            train=lambda encoder: mlm(
                cast(TextEncoder, encoder),
                READER.tokens(CORPUS),
                MLM(plan=Plan(steps=40, batch=24, learning_rate=1e-2)),
                run,
            ),
            made_by="MLM",
        )
        losses = run.history("bert")["prediction"]
    assert sum(losses[-10:]) / 10 < 1.7 < losses[0]
