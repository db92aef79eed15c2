"""Text encoders: transformers of the transformers library that take token numbers and give one vector a sentence.

A sentence becomes a row of token numbers by the encoder's own `Reader`. From there on text goes the way of images: tensors
in, features out, so that probes, fine-tuning, pruning and inference serve both.
"""

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.lineage import remember
from heredity.nn.inference import top1

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

Pooling = Literal["mean", "cls", "pooler"]
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MOST_PARAMETERS = 4_000_000_000


@dataclass(frozen=True)
class TextShape:
    """A small BERT's shape as a setting. `vocabulary` bounds the tokens; "words" are whole words, "pieces" WordPiece."""

    width: int = 64
    depth: int = 2
    heads: int = 2
    feed_forward: int = 128
    length: int = 32
    dropout: float = 0.0
    vocabulary: int = 30_000
    tokens: Literal["words", "pieces"] = "words"
    pooling: Pooling = "mean"


def library(name: str) -> ModuleType:
    """transformers or tokenizers, imported when text is used: images do without. Raises ModelError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModelError(f"text needs {name}", remedy="pip install 'heredity[nlp]'") from None


class Reader:
    """A tokenizer with a fixed length: sentences to rows of token numbers, cut or filled up. It never changes.

    >>> reader = train_reader(["a small corpus", "a word"], TextShape(length=6))
    >>> reader.tokens(["a word"]).shape, reader.knows("corpus"), reader.knows("hippopotamus")
    (torch.Size([1, 6]), True, False)
    """

    def __init__(self, tokenizer: "Tokenizer", length: int, *, pad: str, mask: str, unknown: str | None) -> None:
        found = {name: tokenizer.token_to_id(token) for name, token in (("pad", pad), ("mask", mask))}
        lost = [name for name, number in found.items() if number is None]
        if lost:
            raise ModelError(f"the tokenizer has no {lost[0]} token", remedy="give a masked language model's tokenizer")
        numbers = {name: int(number) for name, number in found.items() if number is not None}
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(pad_id=numbers["pad"], pad_token=pad, length=length)
        self.tokenizer, self.length = tokenizer, length
        self.pad, self.mask = numbers["pad"], numbers["mask"]
        self.unknown = tokenizer.token_to_id(unknown) if unknown else None
        self._names = {"pad": pad, "mask": mask, "unknown": unknown}
        self.special = frozenset(
            number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special
        ) | set(numbers.values())
        self.ordinary = torch.tensor(sorted(set(range(tokenizer.get_vocab_size())) - self.special))

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return self.tokenizer.get_vocab_size()

    def tokens(self, sentences: Sequence[str]) -> Int[Tensor, "n length"]:
        """Token numbers of each sentence, int64, with the special tokens that the encoder expects."""
        if not sentences:
            return torch.empty(0, self.length, dtype=torch.long)
        return torch.tensor([found.ids for found in self.tokenizer.encode_batch(list(sentences))])

    def knows(self, word: str) -> bool:
        """Whether a word reaches the encoder at all: no part of it becomes the unknown token."""
        numbers = self._bare(word)
        return bool(numbers) and self.unknown not in numbers

    def whole(self, word: str) -> bool:
        """Whether a word is one token of its own, neither special nor unknown."""
        numbers = self._bare(word)
        return len(numbers) == 1 and numbers[0] != self.unknown and numbers[0] not in self.special

    def _bare(self, word: str) -> list[int]:
        found = self.tokenizer.encode(word, add_special_tokens=False)
        return [number for number, shown in zip(found.ids, found.attention_mask, strict=True) if shown]

    def to_plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {"json": self.tokenizer.to_str(), "length": self.length, **self._names}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> "Reader":
        """From the data of a file, which may be hostile. Raises ModelError."""
        words, length = plain.get("json"), plain.get("length")
        names = [plain.get(name) for name in ("pad", "mask", "unknown")]
        if (
            not isinstance(words, str)
            or type(length) is not int
            or not 2 <= length <= 8192
            or not isinstance(names[0], str)
        ):
            raise ModelError("the tokenizer record is damaged", remedy="the file was not written by heredity")
        try:
            return Reader(
                library("tokenizers").Tokenizer.from_str(words),
                length,
                pad=names[0],
                mask=str(names[1]),
                unknown=names[2],
            )
        except ModelError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise ModelError(f"the tokenizer record is damaged: {error}", remedy="the file was damaged") from error

    def __deepcopy__(self, memo: Any) -> "Reader":
        return self


def train_reader(sentences: Iterable[str], shape: TextShape) -> Reader:
    """A lower-casing tokenizer learnt from a corpus: of words, or of WordPiece's pieces. It depends on the corpus alone."""
    kit = library("tokenizers")
    model = kit.models.WordLevel if shape.tokens == "words" else kit.models.WordPiece
    trainer = kit.trainers.WordLevelTrainer if shape.tokens == "words" else kit.trainers.WordPieceTrainer
    tokenizer = kit.Tokenizer(model({}, unk_token="[UNK]"))
    tokenizer.normalizer = kit.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = kit.pre_tokenizers.BertPreTokenizer()
    plan = trainer(vocab_size=shape.vocabulary, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(sentences, plan)
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = kit.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return Reader(tokenizer, shape.length, pad="[PAD]", mask="[MASK]", unknown="[UNK]")


class TextEncoder(nn.Module):
    """A transformer with its reader: token numbers in, one feature vector a sentence out.

    `pooling` is the mean of the token states, the first token's state ("cls"), or the tanh layer on it ("pooler") where the
    model has one. Padding is cut off before the transformer sees it.
    """

    def __init__(self, inner: "PreTrainedModel", reader: Reader, pooling: Pooling = "mean") -> None:
        super().__init__()
        if pooling == "pooler" and getattr(inner, "pooler", None) is None:
            raise ModelError(f"{type(inner).__name__} has no pooler", remedy="choose the pooling mean or cls")
        self.inner, self.reader, self.pooling = inner, reader, pooling
        config = {key: value for key, value in inner.config.to_dict().items() if _plain(value)}
        remember(self, {"kind": "text", "config": config, "reader": reader.to_plain(), "pooling": pooling})

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's layers, first to last: its longest list of modules."""
        lists = [module for module in self.inner.modules() if isinstance(module, nn.ModuleList)]
        if not lists:
            raise ModelError(f"{type(self.inner).__name__} has no list of layers", remedy="use full fine-tuning")
        return max(lists, key=len)

    def states(self, tokens: Int[Tensor, "n length"]) -> tuple[Float[Tensor, "n used width"], Tensor, Any]:
        """Token states, the mask of real tokens, and the model's whole output."""
        real = tokens != self.reader.pad
        used = max(1, int(real.any(dim=0).sum()))
        tokens, real = tokens[:, :used], real[:, :used]
        output = self.inner(input_ids=tokens, attention_mask=real.long())
        return output.last_hidden_state, real, output

    def views(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n views width"]:
        """Every pooling a downstream user may take, this encoder's own first."""
        states, real, output = self.states(tokens)
        weights = real[:, :, None].to(states.dtype)
        found = {"mean": (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1), "cls": states[:, 0]}
        if getattr(output, "pooler_output", None) is not None:
            found["pooler"] = output.pooler_output
        return torch.stack([found.pop(self.pooling), *found.values()], dim=1)

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n width"]:
        return self.views(tokens)[:, 0]


class TextViews(nn.Module):
    """An encoder's every pooling behind one forward: the thief chooses among them, so that all are marked (spec, trap 8)."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n views width"]:
        return self.encoder.views(tokens)


def make_text_encoder(shape: TextShape, reader: Reader) -> TextEncoder:
    """An untrained BERT of a shape for a reader's tokens.

    >>> reader = train_reader(["a small corpus"], TextShape(length=6))
    >>> make_text_encoder(TextShape(), reader)(reader.tokens(["a corpus", "small"])).shape
    torch.Size([2, 64])
    """
    kit = library("transformers")
    config = kit.BertConfig(
        vocab_size=reader.size,
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.length,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        type_vocab_size=1,
        # BERT's 0.02 suits its width of 768; in a narrow network it silences attention for hundreds of steps.
        initializer_range=0.55 * shape.width**-0.5,
        pad_token_id=reader.pad,
    )
    return TextEncoder(kit.AutoModel.from_config(config), reader, shape.pooling)


def build_text(architecture: Mapping[str, Any]) -> TextEncoder:
    """An untrained encoder from what a `TextEncoder` remembers. Raises ModelError for a record that is not one of ours."""
    config, reader, pooling = (architecture.get(name) for name in ("config", "reader", "pooling"))
    if not isinstance(config, dict) or not isinstance(reader, dict) or pooling not in ("mean", "cls", "pooler"):
        raise ModelError("the architecture record is damaged", remedy="the file was not written by heredity")
    kit = library("transformers")
    try:
        fields = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
        wanted = kit.AutoConfig.for_model(str(config.get("model_type")), **fields)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in kit.AutoModel.from_config(wanted).parameters())
        if size > _MOST_PARAMETERS:
            raise ModelError(f"the file describes a model of {size:,} parameters", remedy="it is not an encoder")
        return TextEncoder(kit.AutoModel.from_config(wanted), Reader.from_plain(reader), pooling)
    except ModelError:
        raise
    except Exception as error:  # the library raises errors of many kinds for fields that do not fit
        raise ModelError(f"the architecture record is damaged: {error}", remedy="the file was damaged") from error


def labels_of(classifier: nn.Module, sentences: Sequence[str]) -> Int[Tensor, "n"]:
    """Top-1 labels of sentences: what a black-box service on this classifier would answer."""
    encoder = getattr(classifier, "encoder", None)
    if not isinstance(encoder, TextEncoder):
        raise ModelError("the classifier does not read text", remedy="give a classifier on a text encoder")
    return top1(classifier, encoder.reader.tokens(sentences))


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
