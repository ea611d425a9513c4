"""Which MR sequence an image is: from the physics in its DICOM header first, then from what its file or series is called.

Names are those of Siemens, GE, Philips, United Imaging and Canon scanners, of BIDS, BraTS and dcm2niix, in English, French,
Spanish, German, Italian, Portuguese, Dutch, Polish and Swedish. `tests/io/test_sequence_names.py` has an example of each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from brainmri.io.other_images import COUNTABLE, NOT_IN_DICOM, OTHERS, SEGMENTATION, other_by_type, other_image, whole_words

PRE_T1, FLAIR_T2, POST_T1 = "pre-contrast T1", "FLAIR", "post-contrast T1"

_SUFFIX = re.compile(r"\.(?:nii|mg[hz]|n?hdr|img|nrrd|mh[ad])(?: ?\(\d+\))?(?:\.gz|\.zst)?$")
_TUMOUR_FILE = re.compile(r"tumou?r\.[a-z].*")  # not a folder, which may hold the slices of people with a tumour
# parts of a name that say where an image was resampled to, who it shows or when; they name no sequence of the image itself
_TARGET = r"s?(?:t1|t2|flair|mni|ct|pet|dwi|adc|dti|swi|asl|bold|fmri|epi|mra|func)[a-z0-9]*"
_CONTEXT = [
    re.compile(r"(?:^|(?<=[_/]))(?:sub|ses|run|task|desc|res|den|hemi|dir)-[a-z0-9]+_?"),  # BIDS entities
    re.compile(r"(?:^|(?<=_))space-[a-z0-9]+_"),
    # "T1_to_FLAIR", "T1_regtoFLAIR", "flair2t1", "flair_in_T1_space": the image is the first of the two
    re.compile(
        r"(?<=[a-z0-9])[-_ .]*(?:(?:co)?reg(?:ist[a-z]*)?[-_ .]*)?(?:to|2|in|on|onto|into)[-_ .]*"
        + _TARGET
        + r"(?:[-_ .]?space)?"
    ),
    re.compile(r"(?<=[a-z0-9])[-_ .]+(?:(?:co)?reg(?:istered)?|warped|aligned|resampled|rigid|affine)[-_ .]+" + _TARGET),
    re.compile(rf"(?<=[a-z0-9])[-_.]{_TARGET}[-_.]?space$"),
    re.compile(r"(?<=[a-z0-9])[-_ ]+for[-_ ]+(?:ct|pet|dti|mri?|us)[-_ ]*(?:fusion|coreg[a-z]*|reg[a-z]*|planning)"),
]

_PLANE = r"(?:o?ax|sag|cor|tra)"
_FLAIR = re.compile(
    r"flair|fluid.?atten|dark.?fl(?:uid)?(?![a-z])|(?<![a-z])da?.?fl(?![a-z])|(?<![a-z])fla(?![a-z])|(?<![a-z0-9])t2f(?![a-z])"
    r"|(?<![a-z])tirm(?![a-z])|(?<![a-z])tir2d|(?<![a-z])spc_?ir(?![a-z])"
)
_T2_FLAIR = re.compile(r"(?<![a-z0-9])t2w?[^a-z0-9]*(?:[a-z]{2,5}[^a-z0-9]+)?(?:flair|dark.?fl)")
_T1 = re.compile(
    rf"(?<![a-z0-9])(?:3d|2d|e|c|uni|inplane|[mrsw]{{1,3}}|{_PLANE})?t1(?!\d)|mp2?.?rage|(?<![a-z])f?spgr|bravo|(?<![a-z])tfl3d"
    r"|(?<![a-z])(?:star)?vibe(?![a-z])|(?<![a-z])thrive(?![a-z])"
)
_T2 = re.compile(
    rf"(?<![a-z0-9])(?:3d|2d|inplane|[mrsw]{{1,3}}|{_PLANE})?t2(?!\d)|(?<![a-z])(?:ciss|fiesta|drive|haste|ssfse)(?![a-z])"
)
# weightings that count if the name says neither T1 nor FLAIR; a gradient echo is then T2*-weighted
_OTHER_WEIGHTINGS = {
    "STIR": whole_words(r"stir"),
    "T2": _T2,
    "PD": whole_words(r"pdw?|proton ?dens\w*|dp"),
    "susceptibility": whole_words(r"m?gre|megre|mpgr|merge"),
    "echo-planar": whole_words(r"ep2d|epi"),
}

# a contrast agent, and the shorter words for one, which mean it only after another word
_AGENT = (
    r"(?:[ck]ontras[a-z]*|contr|gd(?:[- ]?dtpa)?|gad(?:o[a-z]*|avist)?|km|m\.?d\.?c|pdc|inj(?:ect[a-z]*)?|iniett[a-z]*"
    r"|magnevist|dotarem|prohance|multihance|omniscan|clariscan|elucirem|primovist|vueway)(?![a-z])"
)
_ANY_AGENT = rf"[-_ ./]*(?:(?:de|del|al|la|le|l|il|produit de)[-_ .']*)*(?:{_AGENT}|(?:cte|iv|civ|con|c)(?![a-z]))"
# after "pre" and "post", which may also stand alone, unless they say when and not how
_WITH_AGENT = (
    rf"(?:[-_ ]?{_AGENT}|[-_ ]?con|[-_ ]?c)?(?![a-z])"
    r"(?!.?(?:op|treat|tx|fossa|rt(?![a-z])|radi|chemo|surg|resect|biops|trauma))"
)
_PRE = re.compile(
    rf"(?<![a-z])(?:pre|prae?){_WITH_AGENT}|(?<![a-z])w/?o(?![a-z])|without|w/out|nati[fv]|(?<=t1)n(?![a-z])|ce-no(?:ne)?(?![a-z])"
    rf"|(?<![a-z])(?:no[nt]?|sans|sin|ohne|kein[a-z]*|senza|sem|zonder|bez|utan){_ANY_AGENT}"
    rf"|(?<![a-z])(?:before|vor|avant|antes|previo|prima|voor|fore){_ANY_AGENT}"
    rf"|(?<![a-z0-9])[os][-_ ./]*{_AGENT}|(?:^|(?<=[ _]))-(?:{_AGENT}|c(?![a-z]))|{_AGENT}[- ]?(?:frei|free)"
    rf"|(?<![a-z])(?:non?.?enhanced|unenhanced|blanco|blanc)|(?<![a-z])(?:c ?-(?= ?$|[ _])|{_AGENT}-(?=$|[ _]))"
)
_POST = re.compile(
    rf"(?<![a-z])post?{_WITH_AGENT}|(?<=t1)c(?:e|gd)?(?![a-z])|(?<=t1_)c(?![a-z])|(?<![a-z])ct1(?!\d)"
    r"|(?<=t1w)ce?(?![a-z])|t1(?!\d).*[ _](?:c|iv)$|\+ ?(?:c|civ|gd|km|k)(?![a-z])|(?<![a-z0-9])[cw] ?\+|plus.?c(?![a-z])"
    rf"|(?<![a-z])(?:{_AGENT}|(?:ce|enhanced|w/?c|c/c|mkm)(?![a-z])|with$)"
    rf"|(?<![a-z])(?:apres|dopo|nach|tras|despues|apos|po|mit|avec|with|con|com|met|med|na|efter){_ANY_AGENT}"
)

# the weightings among the values of AcquisitionContrast (DICOM PS3.3, C.8.13.3.1)
_ACQUISITION_CONTRASTS = {"FLUID_ATTENUATED": "FLAIR", "T1": "T1", "T2": "T2", "STIR": "STIR"}


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What a DICOM header says about how an image was acquired; None where it says nothing.

    Attributes:
        repetition_time, echo_time, inversion_time: TR, TE and TI in ms.
        b_value: in s/mm².
        contrast: whether a contrast agent is named.
        inversion: whether the sequence has an inversion pulse.
        inversions: how many inversion times an enhanced image has.
        image_type: the values of ImageType.
        acquisition_contrast: "T1", "FLUID_ATTENUATED" and so on, of enhanced images.
    """

    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    b_value: float | None = None
    contrast: bool = False
    inversion: bool | None = None
    inversions: int = 1
    image_type: frozenset[str] = field(default_factory=frozenset)
    acquisition_contrast: str | None = None

    def weighting(self) -> str | None:
        """ "T1", "T2", "FLAIR", "STIR" or "double inversion recovery", if the times decide it.

        Fluid is suppressed at inversion times of 1.5 to 3.5 s; a T1-weighted image has a short echo time.
        """
        return self._weighting_by_times() or _ACQUISITION_CONTRASTS.get(self.acquisition_contrast or "")

    def _weighting_by_times(self) -> str | None:
        te, tr, ti = self.echo_time, self.repetition_time, self.inversion_time
        if te is None:
            return None
        if ti:
            if te >= 50 and self.inversions > 1:
                return "double inversion recovery"
            if te >= 50 and 1500 <= ti <= 3500:
                return "FLAIR"
            if ti < 350:
                return "STIR"
            return "T1" if te <= 40 and ti <= 1500 else None
        if self.inversion is False and te >= 60 and tr is not None and tr >= 2000:
            return "T2"
        return "T1" if te <= 18 and tr is not None and 250 <= tr <= 1200 and self.inversion is False else None


def identify(words: str, physics: Physics | None = None) -> str | None:
    """What an image is: `PRE_T1`, `FLAIR_T2`, `POST_T1`, another sequence ("T2", "diffusion", …), or None if unknown.

    Args:
        words: a file name or a series description.
        physics: of its DICOM header, which outweighs the words, unless they name a sequence that shares its times with another
            one, such as double inversion recovery with FLAIR. "Lesion", "label" or "CT" in a description names no segmentation
            and no other modality, as the header says which class and modality an image has.
    """
    if physics is None:
        return _by_words(words)
    named = _by_words(words, NOT_IN_DICOM)
    if other := other_by_type(physics.image_type):
        return other
    if physics.b_value:
        return "diffusion"
    if named in OTHERS:
        return named
    weighting = physics.weighting()
    if named in ("susceptibility", "PD", "STIR", "echo-planar") or (weighting == "STIR" and named == FLAIR_T2):
        weighting = None
    if weighting == "T1" or (weighting is None and named in (PRE_T1, POST_T1)):
        if physics.contrast:
            return POST_T1
        return named if named in (PRE_T1, POST_T1) else POST_T1 if _contrast(plain(words)) == POST_T1 else PRE_T1
    return FLAIR_T2 if weighting == "FLAIR" else weighting or named


def describe(sequence: str) -> str:
    """What `identify` returns, within a sentence: "T2", "a localizer".

    >>> describe("map")
    'a map'
    """
    return f"a {sequence}" if sequence in COUNTABLE else sequence


def plain(words: str) -> str:
    """Lower case, without accents and file suffix."""
    folded = unicodedata.normalize("NFKD", words.lower())
    return _SUFFIX.sub("", "".join(c for c in folded if not unicodedata.combining(c)))


def _contrast(words: str) -> str | None:
    return PRE_T1 if _PRE.search(words) else POST_T1 if _POST.search(words) else None


def _by_words(words: str, without: Sequence[str] = ()) -> str | None:
    if _TUMOUR_FILE.fullmatch(words.lower()) and SEGMENTATION not in without:
        return SEGMENTATION
    name = plain(words)
    image = name
    for context in _CONTEXT:
        image = context.sub("", image)
    if not (_FLAIR.search(image) or _T1.search(image) or _T2.search(image)):
        image = name
    if other := other_image(image, without):
        return other
    contrast = _contrast(image)
    flair, t1 = _FLAIR.search(image), _T1.search(image)
    if flair and (not t1 or _T2_FLAIR.search(image)):
        return FLAIR_T2
    if t1:  # with FLAIR in its name too: weighted like T1
        return contrast or PRE_T1
    for other, pattern in _OTHER_WEIGHTINGS.items():
        if pattern.search(image):
            return other
    return contrast
