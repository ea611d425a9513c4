"""Which MR sequence an image is: from the physics in its DICOM header first, then from what its file or series is called.

Names are those of Siemens, GE, Philips, United Imaging and Canon scanners, of BIDS, BraTS and dcm2niix, in English, French,
Spanish, German, Italian, Portuguese and Dutch. `tests/io/test_sequence_names.py` has an example of each.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

PRE_T1, FLAIR_T2, POST_T1 = "pre-contrast T1", "FLAIR", "post-contrast T1"


def _words(pattern: str) -> re.Pattern:
    """A pattern of alternatives that must neither follow nor precede a letter."""
    return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


# parts of a name that say where an image was resampled to, who it shows or when; they name no sequence of the image itself
_TARGET = r"s?(?:t1|t2|flair|mni)[a-z0-9]*"
_CONTEXT = [
    re.compile(r"(?:^|(?<=[_/]))(?:sub|ses|run|task|desc|res|den|hemi)-[a-z0-9]+_?"),  # BIDS entities
    re.compile(r"(?:^|(?<=_))space-[a-z0-9]+_"),
    # "T1_to_FLAIR", "T1_regtoFLAIR", "flair2t1", "flair_in_T1_space": the image is the first of the two
    re.compile(
        r"(?<=[a-z0-9])[-_ .]*(?:(?:co)?reg(?:ist[a-z]*)?[-_ .]*)?(?:to|2|in|on|onto|into)[-_ .]*"
        + _TARGET
        + r"(?:[-_ .]?space)?"
    ),
    re.compile(r"(?<=[a-z0-9])[-_ .]+(?:co)?reg(?:istered)?[-_ .]+" + _TARGET),
]

# names of other images; the first match counts
_OTHERS = {
    "segmentation": re.compile(r"(?<![a-z])(?:a?seg|segm|segmentations?|labels?|roi|lesions?|gtv|ctv)(?![a-z])|masks?(?![a-z])"),
    "diffusion": _words(r"e?dwi|e?adc|dti|diff(?:usion)?|trace ?w?|isotropic ?dwi|ivim|dki|resolve|b[ _-]?[1-9]\d{2,3}|fa ?map"),
    "susceptibility": _words(r"swi\w*|swan\w*|swip|ven ?_?bold|susc\w*|t2 ?\*|t2 ?star\w*|t2s|qsm|hemo|fe?fe ?t2"),
    "perfusion or dynamic": _words(r"perf\w*|pwi|dsc|dce|p?casl|asl|r?cb[fv]|mtt|ttp|k ?trans|dyn\w*|tw(?:ist)?"),
    "angiography": re.compile(r"(?<![a-z])(?:tof|ce)?[ _-]?mr[av](?![a-z])|(?<![a-z0-9])(?:\dd ?)?tof|angio"),
    "functional": _words(r"f?mri ?rest\w*|bold|rest(?:ing)?|fmri|epi ?task"),
    "localizer": re.compile(
        r"locali[sz]|lokali|(?<![a-z])(?:loc|scout|survey|topogram|plan[- _]?scan|3[ -]?plane)(?![a-z])|calib|shim"
    ),
    "map": re.compile(r"(?<![a-z0-9])(?:t1|t2|b0|b1|pd|field|phase)[-_ ]?(?:map|rho)|relaxometry|(?<![a-z])mt[rv]?(?![a-z0-9])"),
    "subtraction": re.compile(r"subtr|(?<=[ _-])sub$|(?<![a-z])substrac|differenz|soustr|sottr"),
    "projection": _words(r"mip|minip|mnip"),
    "spectroscopy": _words(r"mrs|csi|svs|spectro\w*"),
}

_FLAIR = re.compile(
    r"flair|dark.?fl(?:uid)?(?![a-z])|(?<![a-z])da?.?fl(?![a-z])|(?<![a-z])fla(?![a-z])|(?<![a-z0-9])t2f(?![a-z])"
    r"|(?<![a-z])tirm(?![a-z])|(?<![a-z])tir2d|(?<![a-z])spc?ir(?![a-z])"
)
_T2_FLAIR = re.compile(r"(?<![a-z0-9])t2w?[^a-z0-9]*(?:[a-z]{2,5}[^a-z0-9]+)?(?:flair|dark.?fl)")
_T1 = re.compile(r"(?<![a-z0-9])(?:3d|2d|e|[mrsw]{1,3})?t1(?!\d)|mp2?rage|(?<![a-z])f?spgr|bravo|(?<![a-z])tfl3d")
_T2 = re.compile(r"(?<![a-z0-9])(?:3d|2d|[mrsw]{1,3})?t2(?!\d)|(?<![a-z])(?:ciss|fiesta|drive|haste|ssfse)(?![a-z])")
_PD = _words(r"pdw?|proton ?dens\w*|dp")
_STIR = _words(r"stir|spair")
_DIR = _words(r"dir|double ?ir")

_AGENT = (
    r"[-_ .]*(?:(?:de|del|la|le|l|il)[-_ .']*)?"
    r"(?:contrast[a-z]*|kontrast[a-z]*|contr|inj[a-z]*|gad[a-z]*|gd[a-z]*|km|mdc|pdc|iv|civ|c)(?![a-z])"
)
_WITH_AGENT = r"(?:contrast[a-z]*|gado?|gd|km|inj[a-z]*)?(?![a-z])(?!.?op)"  # after "pre" and "post"
_PRE = re.compile(
    rf"(?<![a-z])pre{_WITH_AGENT}|(?<![a-z])w/?o(?![a-z])|without|w/out|nati[fv]|(?<=t1)n(?![a-z])"
    rf"|(?<![a-z])(?:no[nt]?|sans|sin|ohne|senza|sem|zonder|vor|avant|antes){_AGENT}"
    r"|(?<![a-z])(?:non?.?enhanced|unenhanced|blanco|blanc|c ?-(?= ?$|[ _]))"
)
_POST = re.compile(
    rf"(?<![a-z])post?{_WITH_AGENT}|(?<=t1)c(?:e|gd)?(?![a-z])|(?<=t1_)c(?![a-z])"
    r"|(?<=t1w)ce|\+ ?(?:c|gd|km|k)(?![a-z])|(?<![a-z])c ?\+"
    r"|(?<![a-z])(?:gd|gado?|gadolin[a-z]*|gadovist|dotarem|prohance|ce|km|mdc|[ck]ontrast[a-z]*|contr|enhanced)(?![a-z])"
    r"|(?<![a-z])(?:inj|inject[a-z]*|iniett[a-z]*)(?![a-z])|(?<![a-z])with$"
    rf"|(?<![a-z])(?:apres|dopo|nach|despues|apos|mit|avec|with|con|com|met|na){_AGENT}"
)

# the weightings among the values of AcquisitionContrast (DICOM PS3.3, C.8.13.3.1)
_ACQUISITION_CONTRASTS = {"FLUID_ATTENUATED": "FLAIR", "T1": "T1", "T2": "T2", "STIR": "STIR"}
_PERFUSION = "perfusion or dynamic"
# DICOM's ImageType names these images
_TYPES = {
    "MOSAIC": "mosaic", "LOCALIZER": "localizer", "PHASE": "phase", "P": "phase", "P_FFE": "phase", "ADC": "diffusion",
    "TRACEW": "diffusion", "DIFFUSION": "diffusion", "FA": "diffusion", "EXP": "diffusion", "SWI": "susceptibility",
    "T2_STAR": "susceptibility", "FMRI": "functional", "ASL": _PERFUSION, "PERFUSION": _PERFUSION, "CBF": _PERFUSION,
    "CBV": _PERFUSION, "MTT": _PERFUSION, "TTP": _PERFUSION, "MIP": "projection", "MNIP": "projection", "MIN_IP": "projection",
    "PROJECTION IMAGE": "projection", "SUB": "subtraction", "SUBTRACT": "subtraction", "SUBTRACTION": "subtraction",
    "T1 MAP": "map", "T2 MAP": "map",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What a DICOM header says about how an image was acquired; None where it says nothing.

    Attributes:
        repetition_time, echo_time, inversion_time: TR, TE and TI in ms.
        b_value: in s/mm².
        contrast: whether a contrast agent is named.
        inversion: whether the sequence has an inversion pulse.
        image_type: the values of ImageType.
        acquisition_contrast: "T1", "FLUID_ATTENUATED" and so on, of enhanced images.
    """

    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    b_value: float | None = None
    contrast: bool = False
    inversion: bool | None = None
    image_type: frozenset[str] = field(default_factory=frozenset)
    acquisition_contrast: str | None = None

    def weighting(self) -> str | None:
        """ "T1", "T2", "FLAIR" or "STIR", if the times decide it.

        Fluid is suppressed at inversion times of 1.5 to 3.5 s; a T1-weighted image has a short echo time.
        """
        return self._weighting_by_times() or _ACQUISITION_CONTRASTS.get(self.acquisition_contrast or "")

    def _weighting_by_times(self) -> str | None:
        te, tr, ti = self.echo_time, self.repetition_time, self.inversion_time
        if te is None:
            return None
        if ti:
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
        physics: of its DICOM header, which outweighs the words.
    """
    named = _by_words(words)
    if physics is None:
        return named
    for value in physics.image_type:
        if value in _TYPES:
            return _TYPES[value]
    if physics.b_value:
        return "diffusion"
    if named in _OTHERS:
        return named
    weighting = physics.weighting()
    if named in ("susceptibility", "PD") or weighting is None or (weighting == "STIR" and named == FLAIR_T2):
        weighting = None
    if weighting == "T1" or (weighting is None and named in (PRE_T1, POST_T1)):
        if physics.contrast:
            return POST_T1
        return named if named in (PRE_T1, POST_T1) else POST_T1 if _contrast(_plain(words)) == POST_T1 else PRE_T1
    return FLAIR_T2 if weighting == "FLAIR" else weighting or named


def _plain(words: str) -> str:
    """Lower case, without accents and file suffix."""
    folded = unicodedata.normalize("NFKD", words.lower())
    return re.sub(r"\.nii(?: ?\(\d+\))?(?:\.gz|\.zst)?$", "", "".join(c for c in folded if not unicodedata.combining(c)))


def _contrast(words: str) -> str | None:
    return PRE_T1 if _PRE.search(words) else POST_T1 if _POST.search(words) else None


def _by_words(words: str) -> str | None:
    plain = _plain(words)
    image = plain
    for context in _CONTEXT:
        image = context.sub("", image)
    if not (_FLAIR.search(image) or _T1.search(image) or _T2.search(image)):
        image = plain
    for other, pattern in _OTHERS.items():
        if pattern.search(image):
            return other
    contrast = _contrast(image)
    flair, t1 = _FLAIR.search(image), _T1.search(image)
    if flair and (not t1 or _T2_FLAIR.search(image)):
        return FLAIR_T2
    if t1:  # with FLAIR in its name too: weighted like T1
        return contrast or PRE_T1
    for other, pattern in (("STIR", _STIR), ("double inversion recovery", _DIR), ("T2", _T2), ("PD", _PD)):
        if pattern.search(image):
            return other
    return contrast
