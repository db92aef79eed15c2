"""What an owner publishes before release, so that nobody can say later that the key was searched for (spec section 2.9).

C = SHA-256("heredity/ssl-wm/commit/v1" || canonical JSON of what the key fixes, a hash of the secret, and a hash of the
marked encoder). One line of hexadecimal digits, put where a date can be trusted: a git tag, a time-stamping service, a
newspaper.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heredity.core.errors import HeredityError
from heredity.core.files import write_json
from heredity.systems.ssl_wm.mark.keys import Key

FORMAT, VERSION, GENERATOR = "heredity-ssl-wm-commitment", 1, "heredity/ssl-wm/v1"
_DOMAIN = b"heredity/ssl-wm/commit/v1"
_HASHED = ("version", "owner", "created", "modality", "params", "key_hash", "encoder_sha256")


class CommitmentError(HeredityError):
    """A commitment that is missing, damaged, or to another key than the one that was opened."""


@dataclass(frozen=True)
class Commitment:
    """The public half of a key. `committed` is the owner's word for the date: only the place of publication proves it."""

    owner: str
    created: str
    modality: str
    params: dict[str, Any]
    key_hash: str
    encoder_sha256: str | None
    commitment: str
    committed: str


def canonical(value: Any) -> bytes:
    """JSON in one way only: keys sorted, no blanks, ASCII.

    >>> canonical({"b": 1, "a": [True]})
    b'{"a":[true],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def commit_to(key: Key, encoder_sha256: str | None, *, committed: str | None = None) -> Commitment:
    """The commitment to a key and to the encoder (content hash of its tensors) that carries its mark."""
    public = {
        "owner": key.owner,
        "created": key.created,
        "modality": key.modality,
        "params": json.loads(json.dumps(asdict(key.parameters))),
        "key_hash": hashlib.sha256(key.secret).hexdigest(),
        "encoder_sha256": encoder_sha256,
    }
    moment = committed or datetime.now(UTC).isoformat(timespec="seconds")
    return Commitment(**public, commitment=_hash_of(public), committed=moment)


def _hash_of(public: dict[str, Any]) -> str:
    hashed = {"version": VERSION, **{name: public[name] for name in _HASHED if name != "version"}}
    return hashlib.sha256(_DOMAIN + canonical(hashed)).hexdigest()


def save_commitment(path: Path, commitment: Commitment) -> None:
    """Write the public file."""
    write_json(path, {"format": FORMAT, "version": VERSION, "generator": GENERATOR, **asdict(commitment)})


def load_commitment(path: Path) -> Commitment:
    """Read a commitment. Raises CommitmentError naming the field that is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommitmentError(
            f"no commitment {path}",
            remedy="make one with heredity ssl-wm commit before the encoder is released; --uncommitted verifies without",
        ) from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CommitmentError(f"{path} is not a commitment: {error}", remedy="restore it from your backup") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise CommitmentError(
            f"{path}: field 'format' or 'version' is not that of a commitment", remedy="give a file that commit wrote"
        )
    kinds = dict.fromkeys(("owner", "created", "modality", "key_hash", "commitment", "committed"), str)
    for name, kind in {**kinds, "params": dict}.items():
        if not isinstance(content.get(name), kind):
            raise CommitmentError(f"{path}: field {name!r} is missing or malformed", remedy="restore it")
    encoder = content.get("encoder_sha256")
    if encoder is not None and not isinstance(encoder, str):
        raise CommitmentError(f"{path}: field 'encoder_sha256' is malformed", remedy="restore it")
    return Commitment(encoder_sha256=encoder, params=content["params"], **{name: content[name] for name in kinds})


def check_commitment(key: Key, commitment: Commitment, *, source: str, published: str | None = None) -> None:
    """Recompute C from the opened key. Raises CommitmentError naming the field in which key and commitment differ.

    `published` is C as it was found in the place that dates it; it must be the one that was recomputed.
    """
    ours, theirs = asdict(commit_to(key, commitment.encoder_sha256)), asdict(commitment)
    for name in ("owner", "created", "modality", "params", "key_hash"):
        if ours[name] != theirs[name]:
            field = name
            if name == "params":
                odd = sorted(k for k in ours[name] | theirs[name] if ours[name].get(k) != theirs[name].get(k))
                field = f"params.{odd[0]}"
            raise CommitmentError(
                f"the key is not the one that was committed to: field {field!r} differs from {source}",
                remedy="open the key as it was when it was committed",
            )
    if ours["commitment"] != commitment.commitment:
        raise CommitmentError(
            f"{source}: field 'commitment' is not the hash of its other fields",
            remedy="restore it from where it was published",
        )
    marked = key.encoder.get("sha256")
    if marked and commitment.encoder_sha256 and marked != commitment.encoder_sha256:
        raise CommitmentError(
            f"the key marks another encoder than {source}: field 'encoder_sha256' differs",
            remedy="a key belongs to one encoder; open the key as it was when it was committed",
        )
    if key.commitment and key.commitment != commitment.commitment:
        raise CommitmentError(
            f"the key names another commitment than {source}: field 'commitment' differs",
            remedy="give its own with --commitment",
        )
    if published is not None and published.strip().lower() != commitment.commitment:
        raise CommitmentError(
            f"what was published is not the commitment of {source}", remedy="compare the whole line of 64 digits"
        )


def date_warnings(commitment: Commitment, suspect_since: str | None, *, now: datetime | None = None) -> list[str]:
    """What is odd about the dates: a commitment of the future, one younger than the suspect, or nothing to compare with."""
    present, committed = now or datetime.now(UTC), _moment(commitment.committed)
    if committed is None:
        return [f"the commitment's date {commitment.committed[:40]!r} is not a date"]
    warnings = []
    if committed > present:
        warnings.append(f"the commitment says it was made on {commitment.committed}, which is yet to come")
    if suspect_since is None:
        warnings.append(
            "nothing was said about when the suspect appeared (--suspect-since DATE): the commitment must be older than that"
        )
        return warnings
    since = _moment(suspect_since)
    if since is None:
        raise CommitmentError(f"{suspect_since!r} is not a date", remedy="write it like 2026-01-31")
    if committed >= since:
        warnings.append(
            f"the commitment ({commitment.committed}) is not older than the suspect ({suspect_since}): "
            "the key could have been searched for"
        )
    return warnings


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def commitment_path(key: Path) -> Path:
    """Where the commitment of a key file lies: mine.key.json -> mine.commitment.json.

    >>> commitment_path(Path("mine.key.json")).name
    'mine.commitment.json'
    """
    name = key.name.removesuffix(".json").removesuffix(".key")
    return key.with_name(f"{name}.commitment.json")
