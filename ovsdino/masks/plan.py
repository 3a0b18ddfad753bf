"""Check the options of ``ovsdino pseudo-masks`` and turn them into a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovsdino.masks.errors import MaskError
from ovsdino.masks.make import Advance, MaskJob, make_masks
from ovsdino.masks.nouns.captions import CaptionedPhoto, Captions, read_captions
from ovsdino.masks.nouns.nouns import NounFilter, PhotoNouns, Runs, caption_runs, photo_nouns
from ovsdino.masks.options import SYNONYMS, WIDER, MaskOptions, spread
from ovsdino.masks.store.contact_sheet import draw_sheet
from ovsdino.masks.store.shards import MaskReader
from ovsdino.masks.teachers.source import MaskSourceOptions
from ovsdino_runtime.base.out_folder import check_out

SHEET, NOUNS = "contact-sheet.png", "nouns.json"


@dataclass(frozen=True)
class MaskPlan:
    """A checked job."""

    request: MaskOptions
    job: MaskJob
    notes: tuple[str, ...]  # what a user should know before it runs

    def run(self, begin: Advance, advance: Advance) -> None:
        """Make the masks and the contact sheet.

        Raises:
            MaskError: a network is missing, or the folder holds something else.
        """
        request = self.request
        if request.ray is None:
            make_masks(self.job, begin=begin, advance=advance)
        else:
            from ovsdino.masks.cluster import make_masks_on_cluster

            make_masks_on_cluster(
                self.job,
                address=request.ray,
                workers=request.workers,
                device=request.device,
                begin=begin,
                advance=advance,
            )
        reader = MaskReader(request.out)
        if request.sheet and len(reader):
            draw_sheet(reader, request.photos, count=request.sheet).save(request.out / SHEET)

    def summary(self) -> list[str]:
        """Summarise the folder's contents."""
        reader = MaskReader(self.request.out)
        regions = sum(reader.vocabulary.values())
        commonest = ", ".join(f"{noun} {count}" for noun, count in list(reader.vocabulary.items())[:8])
        mean = regions / max(1, len(reader))
        lines = [
            f"{self.request.out}: {len(reader)} photos, {len(reader.vocabulary)} nouns, {mean:.1f} a photo",
            f"commonest: {commonest or 'none'}",
        ]
        if self.request.sheet and len(reader):
            lines.append(f"samples to look at: {self.request.out / SHEET}")
        if reader.skipped:
            first = "; ".join(f"{image}: {why}" for image, why in list(reader.skipped.items())[:5])
            lines.append(f"photos that cannot be read, skipped: {len(reader.skipped)} ({first})")
        return lines


def plan(request: MaskOptions, counted: Callable[[int, int], None]) -> MaskPlan:
    """Check the options and find the nouns of the photos.

    Args:
        request: the options.
        counted: called with the numbers of processed and of all captions.

    Raises:
        OvsdinoError: a file or folder is missing or invalid, or there is no such device.
    """
    check_out(request.out)
    if request.ray is None:  # else each worker looks for it on its own machine
        from ovsdino.masks.teachers.device import choose_device

        choose_device(request.device)
    if request.source == "segmenters":
        from ovsdino.masks.segmenter_job import segmenter_job

        return MaskPlan(request, segmenter_job(request), ())
    if request.source == "labels":
        from ovsdino.masks.label_files import label_job

        return MaskPlan(request, label_job(request), ())
    if request.source == "sets":
        from ovsdino.masks.label_sets import set_job

        return MaskPlan(request, set_job(request), ())
    if request.captions is None:
        raise MaskError("--captions is missing: the words to look for stand in the photos' captions")
    captions = read_captions(request.captions, request.photos)
    captions = replace(captions, photos=spread(captions.photos, request.max_photos))
    tasks, beside = _find_nouns(captions.photos, request, counted)
    job = MaskJob(
        out=request.out,
        photos=request.photos,
        tasks=tuple(tasks),
        source=_grounded_sam(request),
        shard_size=request.shard_size,
        options={"captions": request.captions.name, "min_captions": request.min_captions},
        beside=beside,
    )
    nouns = f"{len(beside[NOUNS])} nouns in {len(tasks)} photos"
    return MaskPlan(request, job, (*_notes(captions, request), nouns))


def _grounded_sam(request: MaskOptions) -> MaskSourceOptions:
    from ovsdino.masks.teachers.grounded_sam import GroundedSamOptions
    from ovsdino.masks.teachers.grounding import BoxThresholds

    detector = Path(request.detector)
    return GroundedSamOptions(
        detector=str(detector.absolute()) if detector.is_dir() else request.detector,
        sam=request.sam.absolute(),
        thresholds=BoxThresholds(request.box_threshold, request.text_threshold, request.nms_iou),
        selection=request.selection,
        min_area=request.min_area,
        device=request.device,
    )


def _find_nouns(
    photos: Sequence[CaptionedPhoto], request: MaskOptions, counted: Callable[[int, int], None]
) -> tuple[list[PhotoNouns], dict[str, Mapping[str, object]]]:
    """Return each photo's nouns, and the files that describe them all."""
    from ovsdino.masks.nouns.nltk_data import open_lexicon, open_tagger, search_folders

    folders = search_folders(request.nltk_data)
    tag, lexicon = open_tagger(folders), open_lexicon(folders, request.wordnet)
    total, done = sum(len(photo.captions) for photo in photos), 0

    def read(caption: str) -> Runs:
        nonlocal done
        done += 1
        counted(done, total)
        return caption_runs(caption, tag, lexicon)

    tasks, vocabulary = photo_nouns(photos, read, lexicon=lexicon, rules=NounFilter(request.min_captions))
    if not vocabulary:
        raise MaskError(
            f"no noun stands in {request.min_captions} of the {total} captions; lower --min-captions"
        )
    counts = dict(sorted(vocabulary.items(), key=lambda item: (-item[1], item[0])))
    return tasks, {
        NOUNS: counts,
        SYNONYMS: lexicon.synonyms(vocabulary),
        WIDER: lexicon.wider(vocabulary),
    }


def _notes(captions: Captions, request: MaskOptions) -> list[str]:
    """Describe mismatches between caption file and folder."""
    notes = []
    if captions.missing:
        first = captions.missing[0]
        notes.append(
            f"photos that {request.captions} names and that are not there: {len(captions.missing)}, "
            f"such as {first}"
        )
    if captions.uncaptioned:
        notes.append(f"photos without captions, left out: {captions.uncaptioned}")
    if captions.empty:
        notes.append(f"empty captions, left out: {captions.empty}")
    return notes
