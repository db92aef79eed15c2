"""What was agreed before a verification and what was answered, one line of JSON a query (spec section 2.10).

The first line holds the terms. The others hold, in the order asked, the hash of the exact bytes that were sent, which key
(-1: clean, -2: clean once more, from 0 on: the owner's sub-keys, then the decoys) was in which image, the answer and the
time; or a remark about the answers. A transcript, the key and the commitment give the verdict again, bit for bit. Everything
but the times `t` repeats with the terms.
"""

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from heredity.core.errors import HeredityError
from heredity.core.randomness import seed_of
from heredity.systems.ssl_wm.proof.verification import Statistic

FORMAT, VERSION = "heredity-ssl-wm-transcript", 1
CLEAN, AGAIN = -1, -2
_MAX_BYTES = 2**30

Query = tuple[int, int]


class TranscriptError(HeredityError):
    """A transcript that is missing, damaged, of other terms, or in use."""


@dataclass(frozen=True)
class Terms:
    """Everything that fixes a verification before its first query.

    `looks` are the numbers of base inputs at which the verdict is looked at; the last is how many there are. `nonce` is a
    text that the owner did not choose. `probes` clean inputs are asked twice, to see whether answers are noisy. `pool` is how
    many inputs there were to choose from, `inputs_sha256` a hash of those that were chosen.
    """

    commitment: str
    key_hash: str
    suspect: str
    nonce: str
    modality: str
    sub_keys: int
    decoys: int
    looks: tuple[int, ...]
    alpha: float
    statistic: Statistic
    picks: int
    probes: int
    inputs: str
    pool: int
    inputs_sha256: str
    size: int | None = None
    suspect_since: str = ""

    def seed(self, *what: int | str) -> int:
        """A seed that neither owner nor suspect can choose: from commitment, suspect and nonce."""
        return seed_of(*what, self.commitment or self.key_hash, self.suspect, self.nonce)

    @property
    def images(self) -> int:
        """How many base inputs there are."""
        return self.looks[-1]

    @property
    def queries(self) -> int:
        """How many questions the whole verification asks."""
        return self.images * (1 + self.sub_keys + self.decoys) + min(self.probes, self.looks[0])


class Transcript:
    """Answers so far, in memory, and in a file where a path is given. Only one process may write a file at a time."""

    def __init__(self, terms: Terms, path: Path | None = None) -> None:
        self.terms, self.path = terms, path
        self.answers: dict[Query, Any] = {}
        self.notes: list[str] = []
        self._file: Any = None

    @classmethod
    def open(cls, terms: Terms, path: Path | None, *, resume: bool = False) -> "Transcript":
        """Begin a transcript, or with `resume` go on with one of the same terms (a half-written last line is dropped).

        Raises TranscriptError when the file exists and shall not be resumed, has other terms, or is in use.
        """
        transcript = cls(terms, path)
        if path is None:
            return transcript
        if path.exists() and not resume:
            raise TranscriptError(
                f"{path} exists", remedy="add --resume to go on with it, or choose another --record file"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            transcript._file = path.open("a+b")
            fcntl.flock(transcript._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TranscriptError(f"{path} is in use by another process", remedy="wait, or end it") from None
        except OSError as error:
            raise TranscriptError(
                f"cannot write {path}: {error.strerror or error}", remedy="choose another --record file"
            ) from error
        transcript._file.seek(0)
        content = transcript._file.read(_MAX_BYTES)
        whole = content[: content.rfind(b"\n") + 1]
        if whole:
            before, _ = _parse(whole, path)
            _same_terms(before.terms, terms, path)
            transcript.answers, transcript.notes = before.answers, before.notes
        transcript._file.truncate(len(whole))
        if not whole:
            head = {"format": FORMAT, "version": VERSION, **asdict(terms), "t": round(time.time(), 3)}
            transcript._write([head])
        return transcript

    def add(self, queries: Sequence[Query], hashes: Sequence[str], labels: Sequence[Any]) -> None:
        """Append one batch of answers; they are on the disk when this returns."""
        now = round(time.time(), 3)
        rows = zip(queries, hashes, labels, strict=True)
        if self._file is not None:
            self._write(
                [{"q": q, "key": key, "image": image, "label": label, "t": now} for (key, image), q, label in rows]
            )
        self.answers.update(zip(queries, labels, strict=True))

    def remark(self, notes: Sequence[str]) -> None:
        """Note what was noticed about the answers, each remark once."""
        fresh = [note for note in notes if note not in self.notes]
        if fresh and self._file is not None:
            self._write([{"note": note} for note in fresh])
        self.notes += fresh

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        try:
            self._file.write(b"".join(_line(line) for line in lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TranscriptError(
                f"cannot write {self.path}: {error.strerror or error}",
                remedy="free disk space, then repeat with --resume",
            ) from error

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def nonce_of(path: Path) -> str | None:
    """The nonce of a transcript that was begun, None where there is none yet."""
    if not path.exists():
        return None
    content = path.read_bytes()[:_MAX_BYTES]
    whole = content[: content.find(b"\n") + 1]
    return _parse(whole, path)[0].terms.nonce if whole else None


def read_transcript(path: Path) -> tuple[Transcript, dict[Query, str]]:
    """A transcript from its file, with the hash of what was sent for each query. Raises TranscriptError naming the line."""
    try:
        content = path.read_bytes()[:_MAX_BYTES]
    except OSError as error:
        raise TranscriptError(f"cannot read {path}: {error.strerror or error}", remedy="check the path") from error
    return _parse(content[: content.rfind(b"\n") + 1], path)


def _parse(content: bytes, path: Path) -> tuple[Transcript, dict[Query, str]]:
    hashes: dict[Query, str] = {}
    transcript: Transcript | None = None
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            entry = json.loads(line, parse_constant=_no_constant)
            if transcript is None:
                transcript = Transcript(_terms_from(entry), path)
                continue
            if isinstance(entry.get("note"), str):
                transcript.notes.append(entry["note"][:1000])
                continue
            terms, answers = transcript.terms, transcript.answers
            key, image, sent = entry["key"], entry["image"], entry["q"]
            fits = type(key) is type(image) is int and AGAIN <= key < terms.sub_keys + terms.decoys
            if not fits or not 0 <= image < terms.images or not isinstance(sent, str) or (key, image) in answers:
                raise ValueError("no such query, or answered twice")
            answers[key, image], hashes[key, image] = entry["label"], sent
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TranscriptError(
                f"{path}, line {number}: {type(error).__name__} {error}", remedy="the transcript was damaged or edited"
            ) from error
    if transcript is None:
        raise TranscriptError(f"{path} is empty", remedy="give a file that verify --record wrote")
    return transcript, hashes


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _terms_from(entry: Any) -> Terms:
    if not isinstance(entry, dict) or entry.get("format") != FORMAT or entry.get("version") != VERSION:
        raise ValueError("this is not a transcript of this version")
    texts = (
        "commitment",
        "key_hash",
        "suspect",
        "nonce",
        "modality",
        "inputs",
        "inputs_sha256",
        "statistic",
        "suspect_since",
    )
    counts = ("sub_keys", "decoys", "picks", "probes", "pool")
    looks, size, alpha = entry["looks"], entry["size"], entry["alpha"]
    well_formed = (
        all(isinstance(entry[name], str) for name in texts)
        and all(type(entry[name]) is int and 0 <= entry[name] <= 10**7 for name in counts)
        and entry["statistic"] in get_args(Statistic)
        and 1 <= entry["sub_keys"] <= 256
        and 1 <= entry["decoys"] <= 256
        and isinstance(looks, list)
        and 1 <= len(looks) <= 100
        and all(type(look) is int and 4 <= look <= 10**6 for look in looks)
        and looks == sorted(set(looks))
        and type(alpha) is float
        and 0 < alpha < 1
        and (size is None or type(size) is int)
    )
    if not well_formed:
        raise ValueError("a field of the terms is malformed")
    names = (*texts, *counts, "alpha", "size")
    return Terms(looks=tuple(looks), **{name: entry[name] for name in names})


def _same_terms(before: Terms, now: Terms, path: Path) -> None:
    old, new = asdict(before), asdict(now)
    changed = [name for name in old if old[name] != new[name]]
    if changed:
        name = changed[0]
        raise TranscriptError(
            f"{path} was begun with {name} = {str(old[name])[:60]!r}, not {str(new[name])[:60]!r}",
            remedy="resume with the arguments it was begun with, or choose another --record file",
        )
