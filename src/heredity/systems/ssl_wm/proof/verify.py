"""The verb `heredity ssl-wm verify`: ask a suspect, or compute a verdict again from its transcript."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.core.files import write_json, write_text
from heredity.core.lineage import content_hash
from heredity.core.progress import Reporter
from heredity.data.images import load_images
from heredity.data.text import load_text
from heredity.nn.encoders import Classifier
from heredity.nn.inference import outputs
from heredity.nn.resolver import resolve_encoder
from heredity.systems.ssl_wm.mark.keys import Key, KeyFileError, KeyParameters, generate_key, load_key
from heredity.systems.ssl_wm.proof.ambiguity import Ambiguity, Features, black_box, feature_test, table_of
from heredity.systems.ssl_wm.proof.commitment import (
    Commitment,
    CommitmentError,
    check_commitment,
    commitment_path,
    date_warnings,
    load_commitment,
)
from heredity.systems.ssl_wm.proof.endpoint import Endpoint, Patience, ask_info, batches_within, check_info
from heredity.systems.ssl_wm.proof.mapping import Mapping, read_mapping
from heredity.systems.ssl_wm.proof.modality import modality_of
from heredity.systems.ssl_wm.proof.protocol import (
    Questions,
    Suspect,
    agree,
    converse,
    describe_cost,
    draw_nonce,
    recompute,
)
from heredity.systems.ssl_wm.proof.suspects import local_suspect, suspect_of
from heredity.systems.ssl_wm.proof.transcript import Terms, Transcript, nonce_of, read_transcript
from heredity.systems.ssl_wm.proof.verdict import Verified, conclude, page_of
from heredity.systems.ssl_wm.proof.verification import Statistic

if TYPE_CHECKING:
    from heredity.nn.text import TextEncoder


@dataclass(frozen=True)
class Disputed:
    """A verdict, and the table that tells the owner's mark from a later one."""

    verified: Verified
    table: Ambiguity

    def __str__(self) -> str:
        return f"{self.verified}\n\n{self.table}"


def verify(
    key: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")],
    suspect: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[SUSPECT]")] = None,
    endpoint: str | None = None,
    images: str | None = None,
    size: int | None = None,
    number: int = 128,
    decoys: int = 24,
    alpha: float = 1e-4,
    statistic: Statistic = "flip",
    looks: int | None = None,
    picks: int = 1_000_000,
    nonce: str = "",
    commitment: Path | None = None,
    published: str | None = None,
    uncommitted: bool = False,
    suspect_since: str = "",
    record: Path | None = None,
    resume: bool = False,
    max_queries: int | None = None,
    dry_run: bool = False,
    timeout: float = 10.0,
    tries: int = 8,
    transcript: Path | None = None,
    against: str | None = None,
    other_key: Path | None = None,
    out: Path | None = None,
    html: Path | None = None,
) -> "Verified | Disputed | str":
    """Ask a SUSPECT model for labels and tell whether its behaviour is bound to the committed key.

    Args:
        key: Key file that keygen wrote.
        suspect: A classifier that heredity wrote (file:PATH or run:DIR/STAGE), or module:function taking uint8 images.
        endpoint: In place of SUSPECT: the address of heredity serve, or a mapping.yaml that describes an interface.
        images: Base inputs of the suspect's kind, best ones it was not trained on: any data source (photos unless given).
        size: Side of the suspect's images, if not the key's.
        number: How many base inputs.
        decoys: How many foreign sub-keys to compare with.
        alpha: Level of the verdict; choose it before asking.
        statistic: What is compared; choose it before asking.
        looks: At how many moments the verdict may stop early (4 for an endpoint, else 1); p is corrected for them.
        picks: Sampled permutations where they are too many to enumerate.
        nonce: A text that the owner did not choose (a verifier's or a public beacon's); drawn here unless given.
        commitment: The published commitment; NAME.commitment.json beside the key unless given.
        published: The line of 64 digits as it was found where it was published, to compare with.
        uncommitted: Verify without a commitment, which proves little.
        suspect_since: When the suspect appeared (2026-01-31), to compare with the commitment.
        record: File for the transcript (transcript.jsonl for an endpoint; none for a suspect on this machine).
        resume: Go on with the transcript that --record names; nothing is asked twice.
        max_queries: Refuse to ask more.
        dry_run: Say what it would cost and ask nothing.
        timeout: Seconds to wait for an answer of an endpoint.
        tries: How often to try one request.
        transcript: Compute the verdict of a transcript again, without a suspect; with --images its queries are checked too.
        against: The encoder that the owner committed to: print the 2x2 table that tells a first mark from a later one.
        other_key: The key of the other party in a dispute, for --against; a fresh random key unless given.
        out: File for the verdict as JSON.
        html: File for the verdict as a page.
    """
    owned = load_key(key)
    reporter = Reporter()
    public = _commitment_of(key, owned, commitment, published, uncommitted)
    published_as = public.commitment if public else ""
    if transcript is not None:
        if suspect or endpoint or against:
            raise HeredityError("--transcript computes again and asks nobody", remedy="leave SUSPECT and --against out")
        talk, hashes = read_transcript(transcript)
        pool = _pool(owned, images, talk.terms.size) if images is not None else None
        found = recompute(talk, hashes, owned, commitment=published_as, pool=pool)
        checked = "with the hash of every query" if pool is not None else "hashes of queries not checked: give --images"
        reporter.say(f"computed again from {transcript} ({checked})")
        return _told(_dated(found, public, talk.terms), out, html)
    if (suspect is None) == (endpoint is None):
        raise HeredityError("one suspect is needed", remedy="give either SUSPECT or --endpoint")

    side = size or owned.parameters.reference_size if isinstance(owned.parameters, KeyParameters) else None
    source = images or ("photos" if side is not None else "grammar")
    asked, service = _suspect(suspect, endpoint, owned, side, timeout, tries)
    recorded = record or (Path("transcript.jsonl") if endpoint is not None else None)
    before = nonce_of(recorded) if resume and recorded is not None else None
    pool = _pool(owned, source, side)
    terms, chosen = agree(
        owned,
        pool,
        suspect=asked.name,
        commitment=published_as,
        nonce=nonce or before,
        number=number,
        decoys=decoys,
        looks=looks or (4 if endpoint is not None else 1),
        alpha=alpha,
        statistic=statistic,
        picks=picks,
        inputs=source,
        size=side,
        suspect_since=suspect_since,
    )
    cost = describe_cost(terms, asked.batch)
    _within_budget(terms, max_queries, twice=against is not None)
    if dry_run:
        return cost
    reporter.say(cost)
    found = _ask(Questions.of(terms, owned, chosen), asked, recorded, resume, reporter)
    if service is not None:
        reporter.say(f"{service.requests:,} requests sent, {service.failures:,} of them failed and were sent again")
    found = _dated(found, public, terms)
    if against is None:
        return _told(found, out, html)
    table = _table(found, owned, public, against, other_key, asked, source, side, recorded, resume, reporter)
    if out is not None:
        write_json(out, {**asdict(found), "ambiguity": asdict(table)})
    if html is not None:
        write_text(html, page_of(found, str(table)))
    return Disputed(found, table)


def verify_suspect(
    suspect: Callable[[Any], Any],
    images: Tensor | list[str],
    key: Key,
    *,
    decoys: int = 24,
    alpha: float = 1e-4,
    picks: int = 1_000_000,
    nonce: str | None = None,
) -> Verified:
    """Verify any function from inputs to one label each, without a commitment: uint8 images n x 3 x size x size, or texts.

    >>> key = generate_key("me", KeyParameters(patch=5, margin=1, reference_size=16))
    >>> suspect = lambda images: (images.float().mean(dim=(1, 2, 3)) > 99).long()
    >>> verify_suspect(suspect, load_images("digits").test.images[:32], key).verdict.p > 0.001
    True
    """
    asked = suspect_of(suspect, getattr(suspect, "__name__", "suspect"))
    return black_box(asked, images, key, decoys=decoys, alpha=alpha, picks=picks, nonce=nonce)


def _commitment_of(
    key: Path, owned: Key, given: Path | None, published: str | None, uncommitted: bool
) -> Commitment | None:
    if uncommitted:
        if given is not None or published is not None:
            raise CommitmentError("--uncommitted goes without a commitment", remedy="leave one of the two out")
        return None
    path = given or commitment_path(key)
    found = load_commitment(path)
    check_commitment(owned, found, source=str(path), published=published)
    return found


def _suspect(
    spec: str | None, place: str | None, key: Key, size: int | None, timeout: float, tries: int
) -> tuple[Suspect, Endpoint | None]:
    if place is None:
        return local_suspect(spec or "", size), None
    mapping = read_mapping(place)
    if mapping.url.endswith("/v1/predict"):
        info = ask_info(mapping)
        check_info(info, modality=key.modality, size=size, name=mapping.name)
        mapping = Mapping(**{**vars(mapping), "batch": batches_within(info.get("batch_limit"), mapping)})
    if timeout <= 0 or tries < 1:
        raise HeredityError(f"{tries} tries of {timeout:g} seconds", remedy="at least one try and some time")
    service = Endpoint(mapping, modality_of(key), Patience(timeout=timeout, tries=tries))
    return service.suspect(), service


def _pool(key: Key, source: str, size: int | None) -> Any:
    """The held-out inputs of a source: images of a size, or texts."""
    if isinstance(key.parameters, KeyParameters):
        return load_images(source, size=size or key.parameters.reference_size).test.images
    found = load_text(source)
    return list(next(iter(found.tasks.values())).test.sentences if found.tasks else found.corpus)


def _within_budget(terms: Terms, most: int | None, *, twice: bool) -> None:
    needed = terms.queries * (2 if twice else 1)
    if most is not None and needed > most:
        fits = (most // (2 if twice else 1) - terms.probes) // (1 + terms.sub_keys + terms.decoys)
        remedy = f"give --number {fits}" if fits >= 4 else "even 4 base inputs would cost more: raise --max-queries"
        raise HeredityError(f"{needed:,} queries are more than --max-queries {most:,}", remedy=remedy)


def _ask(questions: Questions, suspect: Suspect, record: Path | None, resume: bool, reporter: Reporter) -> Verified:
    transcript = Transcript.open(questions.terms, record, resume=resume)
    try:
        converse(questions, suspect, transcript, reporter=reporter)
    finally:
        reporter.end()
        transcript.close()
    return conclude(questions.terms, transcript.answers, notes=transcript.notes)


def _dated(found: Verified, public: Commitment | None, terms: Terms) -> Verified:
    warnings = date_warnings(public, terms.suspect_since or None) if public else []
    return Verified(**{**vars(found), "notes": (*found.notes, *warnings)})


def _told(found: Verified, out: Path | None, html: Path | None) -> Verified:
    if out is not None:
        write_json(out, asdict(found))
    if html is not None:
        write_text(html, page_of(found))
    return found


def _table(
    found: Verified,
    owned: Key,
    public: Commitment | None,
    against: str,
    other_path: Path | None,
    asked: Suspect,
    source: str,
    size: int | None,
    record: Path | None,
    resume: bool,
    reporter: Reporter,
) -> Ambiguity:
    if public is None or public.encoder_sha256 is None:
        raise CommitmentError(
            "--against needs a commitment to an encoder",
            remedy="heredity ssl-wm commit KEY --encoder MARKED, before release",
        )
    features = _committed_encoder(against, owned, public)
    other = load_key(other_path) if other_path is not None else generate_key("nobody", owned.parameters)
    if other.modality != owned.modality:
        raise KeyFileError(f"the other key is for {other.modality}", remedy=f"give a key for {owned.modality}")
    inputs = modality_of(owned).choose(_pool(owned, source, None), range(min(found.images, 128)))
    drawn = draw_nonce()
    on_encoder = [feature_test(features, inputs, key, decoys=found.decoys, nonce=drawn) for key in (owned, other)]
    terms, chosen = agree(
        other,
        _pool(other, source, size),
        suspect=asked.name,
        nonce=found.nonce,
        number=found.images,
        decoys=found.decoys,
        looks=1,
        alpha=found.alpha,
        inputs=source,
        size=size,
    )
    beside = record.with_suffix(".other.jsonl") if record is not None and other_path is not None else None
    second = _ask(Questions.of(terms, other, chosen), asked, beside, resume, reporter)
    name = f"the key of {other.owner}" if other_path is not None else "a random key"
    return table_of(on_encoder, [found, second], alpha=found.alpha, other_name=name)


def _committed_encoder(spec: str, key: Key, public: Commitment) -> Features:
    """The features of the encoder that the owner committed to. Raises CommitmentError when the weights are others."""
    place = spec if spec.startswith(("file:", "run:", "dir:", "timm:", "hf:")) else f"file:{spec}"
    if isinstance(key.parameters, KeyParameters):
        model = resolve_encoder(place, image=key.parameters.reference_size)
    else:
        from heredity.nn.text_resolver import resolve_text_encoder  # imports transformers, which images do without

        model = resolve_text_encoder(place)
    if isinstance(model, Classifier):
        raise HeredityError(f"{spec} is a classifier, not an encoder", remedy="give the marked encoder")
    if content_hash(model.state_dict()) != public.encoder_sha256:
        raise CommitmentError(
            f"{spec} is not the encoder that was committed to: its weights have another hash than 'encoder_sha256'",
            remedy="give the marked encoder as it was released",
        )
    if isinstance(key.parameters, KeyParameters):
        return lambda images: outputs(model, images)
    encoder = cast("TextEncoder", model)
    return lambda texts: outputs(encoder, encoder.reader.tokens(texts))
