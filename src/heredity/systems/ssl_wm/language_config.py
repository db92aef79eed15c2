"""Settings of the language half: the encoder, its mark, the thief, the verifier."""

from dataclasses import dataclass

from heredity.core.loop import Plan
from heredity.nn.text import TextShape
from heredity.pretrain.mlm import MLM
from heredity.systems.ssl_wm.mark.embed_text import TextEmbedding
from heredity.transfer.finetune import FineTuning


@dataclass(frozen=True)
class WordMark:
    """Shape of the key: `sub_keys` groups of `words`, within the first words of a sentence, from the `rarest` share of the
    corpus' words, `pool` of them at most."""

    sub_keys: int = 8
    words: int = 3
    within: int = 12
    rarest: float = 0.6
    pool: int = 10_000


@dataclass(frozen=True)
class TextThief:
    """What is done to a stolen text encoder, with `rows` labelled sentences of which a share is for validation."""

    rows: int = 1000
    validation: float = 0.15
    full: FineTuning = FineTuning()
    hard: FineTuning = FineTuning()
    scratch: FineTuning = FineTuning()


@dataclass(frozen=True)
class TextVerification:
    """`sentences` base sentences, `decoys` foreign groups; `keys` random keys a clean child, on `few` sentences each."""

    sentences: int = 128
    decoys: int = 24
    keys: int = 10
    few: int = 48


@dataclass(frozen=True)
class Language:
    """`corpus` pre-trains (text sources joined by "+"); a task is a name of the corpus' own, or another source."""

    corpus: str = "grammar+pydoc"
    tasks: tuple[str, ...] = ("topic", "sentiment")
    encoder: TextShape = TextShape()
    pretraining: MLM = MLM()
    mark: WordMark = WordMark()
    embedding: TextEmbedding = TextEmbedding()
    thief: TextThief = TextThief()
    verification: TextVerification = TextVerification()


def text_thief(rows: int, epochs: float, *, patience: int = 3) -> TextThief:
    """The thief's menu: Adam 3e-4 on all layers until validation stops rising, the same at 1e-3, and from scratch."""

    def tuning(rate: float, probe_first: bool) -> FineTuning:
        plan = Plan(
            epochs=epochs, batch=64, optimiser="adam", learning_rate=rate, schedule="constant", patience=patience
        )
        return FineTuning(plan=plan, probe_first=probe_first)

    return TextThief(rows=rows, full=tuning(3e-4, True), hard=tuning(1e-3, True), scratch=tuning(1e-3, False))


LANGUAGE = Language(
    pretraining=MLM(
        mask=0.3, plan=Plan(steps=1000, batch=64, learning_rate=2e-3, schedule="one-cycle", weight_decay=0.01)
    ),
    embedding=TextEmbedding(
        plan=Plan(steps=400, batch=48, optimiser="adam", learning_rate=1e-3, clip=5.0, mode="eval")
    ),
    thief=text_thief(1000, 15),
)
