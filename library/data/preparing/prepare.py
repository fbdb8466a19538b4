"""A folder of originals prepared for training: found, made, chosen, and put into place. The originals are only ever read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from library.core.errors import UserError
from library.data.checks.findings import Finding
from library.data.preparing.choosing import Candidate, choose_validation, find_copies
from library.data.preparing.dataset_file import MASKS, NAME, TRAIN, VALIDATION, dataset_file
from library.data.preparing.files import caption_of, files_of, mask_of, target_of
from library.data.preparing.manifest import Manifest, Record, announce, read_manifest, write_manifest
from library.data.preparing.originals import Original, find_originals
from library.data.preparing.outcome import Outcome, Prepared, Request
from library.data.preparing.placing import Placed, Wanted, check_apart, is_ours, is_there, place, with_bytes
from library.data.preparing.production import WORKSHOP, Production, Workshop
from library.data.preparing.summary import about, about_kept


def prepare(request: Request) -> Prepared:
    """Prepare the originals, or with `dry_run` tell what would become of them.

    Nothing is in place before all are made: a run that is interrupted until then leaves the folder as it was. One that is interrupted
    later leaves a part of the files, no picture in two places. The next run goes on from either.

    Raises:
        UserError: settings that contradict one another, a source without pictures, a folder that would touch the originals, or
            something that cannot be written.
    """
    request.settings.check()
    check_apart(request.source, request.out, [TRAIN, VALIDATION, MASKS, WORKSHOP])
    former = read_manifest(request.out)
    check_source(former, request)
    found = find_originals(request.source, request.recursive, request.caption_endings)
    workshop = Workshop(request.out)
    production = Production(request.settings, former, workshop, not request.dry_run, request.progress)
    outcomes = chosen(found.originals, production.records(found.originals), request)
    gone = sorted(former.records.keys() - {original.name for original in found.originals})
    if not request.dry_run:
        outcomes = at_hand(outcomes, production, request)
    wanted, about_captions = files_of(outcomes, workshop)
    findings = [*found.findings, *about(outcomes), *about_captions]
    if request.dry_run:
        return Prepared(outcomes, findings, gone=gone)
    check_apart(request.source, request.out, sorted({str(Path(name).parent) for name in (*wanted, *former.files)}))
    placed, about_folders = put_into_place(outcomes, wanted, former, gone, request)
    workshop.clear()
    return Prepared(outcomes, [*findings, *about_folders, *about_kept(placed, request.out)], placed, gone)


def check_source(former: Manifest, request: Request) -> None:
    """See that the folder has no other source.

    Raises:
        UserError: the folder was prepared from other originals, which are still there.
    """
    if former.source and Path(former.source) != request.source.resolve() and Path(former.source).is_dir():
        raise UserError(
            f"--out {request.out} was prepared from {former.source}. Name another folder for {request.source}."
        )


def chosen(originals: Sequence[Original], records: Sequence[Record], request: Request) -> list[Outcome]:
    """The outcome of every original: copies left out if that is asked for, the others dealt to training and validation.

    Raises:
        UserError: a validation split cannot be made.
    """
    outcomes = [
        Outcome(original, record, left_out=record.made.left_out, reason=record.made.reason)
        for original, record in zip(originals, records, strict=True)
    ]
    numbers = [number for number, outcome in enumerate(outcomes) if not outcome.left_out]
    candidates = [Candidate(originals[n].name, records[n].content, records[n].made) for n in numbers]
    copies = find_copies(candidates, near=request.skip_near_copies or request.validation_split > 0)
    validates = choose_validation(candidates, copies.alike, request.validation_split, request.validation_seed)
    for index, number in enumerate(numbers):
        same, alike = (candidates[firsts[index]].name for firsts in (copies.same, copies.alike))
        if (request.skip_copies or request.skip_near_copies) and copies.same[index] != index:
            outcomes[number] = replace(outcomes[number], left_out="copy", reason=f"is a copy of {same}.")
        elif request.skip_near_copies and copies.alike[index] != index:
            outcomes[number] = replace(outcomes[number], left_out="near copy", reason=f"looks almost like {alike}.")
        else:
            part = VALIDATION if validates[index] else TRAIN
            outcomes[number] = replace(
                outcomes[number], part=part, target=target_of(outcomes[number], part, request.settings.format)
            )
    return outcomes


def at_hand(outcomes: Sequence[Outcome], production: Production, request: Request) -> list[Outcome]:
    """The same, with every picture that is used in its place or in the workshop; those whose files are gone are made again."""
    missing = [
        number for number, each in enumerate(outcomes) if each.part and not _is_at_hand(each, production, request)
    ]
    again = production.made_again([outcomes[n].original for n in missing], [outcomes[n].record for n in missing])
    whole = list(outcomes)
    for number, record in zip(missing, again, strict=True):
        whole[number] = replace(whole[number], record=record)
    return whole


def put_into_place(
    outcomes: Sequence[Outcome], wanted: dict[str, Wanted], former: Manifest, gone: Iterable[str], request: Request
) -> tuple[Placed, list[Finding]]:
    """Write the files and the dataset TOML, remove those that are stale, and note it all in the manifest.

    Returns:
        what became of the files, and what is to be said of the folders' names.

    Raises:
        UserError: a file cannot be written.
    """
    left = {} if request.prune else {name: former.records[name] for name in gone}
    kept = {NAME, *(file for record in left.values() for file in record.files)}
    stale = [name for name in former.files if name not in wanted and name not in kept]
    records = {each.original.name: replace(each.record, files=_files(each)) for each in outcomes}
    manifest = Manifest(str(request.source.resolve()), left | records, former.files)
    announce(request.out, manifest, wanted)
    placed = place(request.out, wanted, former.files, stale, request.overwrite)
    text, about_folders = dataset_file(request.out, request.settings)
    toml = {NAME: with_bytes(text.encode())}
    announce(request.out, replace(manifest, files=placed.files), toml)
    placed = place(request.out, toml, placed.files, [], request.overwrite, placed)
    write_manifest(request.out, replace(manifest, files=placed.files))
    return placed, about_folders


def _is_at_hand(outcome: Outcome, production: Production, request: Request) -> bool:
    """Whether the files can be put into place. Those that an earlier run has put elsewhere are copied back to the workshop."""
    made, former, folder = outcome.made, production.former, request.out
    if production.workshop.find(outcome.record.key) is not None:
        return True
    contents = {outcome.target: made.content}
    if made.mask_content:
        contents[mask_of(outcome.target)] = made.mask_content
    if all(is_there(folder / name, content, former.files.get(name)) for name, content in contents.items()):
        return True
    record = former.records.get(outcome.original.name)
    elsewhere = record.pictures if record is not None and record.key == outcome.record.key else ()
    if not elsewhere or not all(is_ours(folder / name, former.files.get(name)) for name in elsewhere):
        return False
    masks = [folder / name for name in elsewhere[1:]]
    production.workshop.take_back(outcome.record.key, made, folder / elsewhere[0], masks[0] if masks else None)
    return True


def _files(outcome: Outcome) -> tuple[str, ...]:
    """What was written for an original, in the order of `Record.files`."""
    if not outcome.part:
        return ()
    masks = [mask_of(outcome.target)] if outcome.made.mask_content else []
    return (outcome.target, *masks, *(caption_of(outcome.target, path) for path in outcome.original.captions))
