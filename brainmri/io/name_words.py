"""The words in a volume's file name that may identify a patient or a visit: those for neither sequence nor processing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from brainmri.io.sequence_names import identify, plain

# a date, also with the time that dcm2niix writes after it, and the number of the series that follows such a time
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?:\d{6}(?:_\d+[a-z]?(?=_|$))?|[t_]\d{6}(?!\d))?(?!\d)"
)
# sizes, parts of BIDS names, counts of runs and series, copies of a download, and parallel imaging
_NO_WORDS = re.compile(
    r"(?<![a-z0-9])\d+(?:[.,p]\d+)?(?:x\d+(?:\.\d+)?)*[-_ ]?(?:mm|iso|[dt]|ch|deg)(?![a-z0-9])"
    r"|(?<![a-z0-9])(?:run|task|acq|rec|desc|res|den|hemi|space|ce|echo|part|inv|dir|mod|flip|label)-[a-z0-9]+"
    r"|(?<![a-z])(?:run|series|ser|se|acq|echo|e|eq|tilt|img|im|vol)[-_ ]?\d+(?![a-z0-9])"
    r"|\(\d+\)|(?<=[a-z])\.\d{3,6}$"
    r"|(?:(?<=sag)|(?<=cor)|(?<=tra)|(?<=iso)|(?<=uid)|(?<=age))[-_ ]p[2-6](?![a-z0-9])"
    r"|(?<![a-z])b[-_ =]?\d{3,4}(?![0-9])|(?<=_)\d+x\d+(?:x\d+)?(?![a-z0-9])"
)
_TECHNICAL = frozenset(
    # planes
    " ax axi axial axiale tra trans transverse transversal trv cor coronal coronale sag sagittal obl oblique oax osag ocor"
    " plane mpr"
    # sequences and their options
    " fl d se ir spin echo gradient tse fse ffe tfe gre mprage rage mp fast turbo space spc cube view vista propeller blade"
    " multivane mvxd tir tirm inv inversion recovery fluid dark attenuated suppressed fs fatsat fat sat spir spair dixon dix"
    " water iso isotropic isovoxel vfl cs sense grappa caipi caipirinha shc sh dl nd dis dis2d dis3d filtered ft w wo with"
    " without c gd con contrast contrasted enhanced ce nonce pre post plus no non native longtr lag ti te tr weighted wi img"
    " fsp fl2d fl3d tir2d ir3d tfl tfl3d qtse hires highres lowres hr lr fov ls se2d se3d star vibe starvibe gado"
    # parts of the body, and the modality
    " brain head neuro cranium cranial skull cerebral kopf schadel hirn tete cerveau cabeza craneo encefalo mozg glowa"
    " hjarna mr mri mrt irm rm rmn mrb scan image images anat anatomical structural vsd xx o"
    # processing
    " stripped strip ss skullstripped skullstrip bet betted hdbet synthstrip deskulled defaced deface noskull masked nomask"
    " extracted reg registered coreg coregistered regto r2s rigid affine warped aligned align to in on onto into from of"
    " resampled resample resliced reslice rescaled unified norm normalized normalised zscore n3 n4 n4bias bias biascorr"
    " corrected correct corr fc denoised smoothed cropped crop padded reoriented reorient std lps ras lpi las rai mni mni152"
    " sri24 atlas talairach template orig original raw preproc preprocessed processed prep final new copy output out nii"
    " nifti gz conformed conform interp interpolated linear nn bspline inskull merged avg mean spm fsl ants elastix flirt"
    " res noised s m r rw wm".split()
)

_INITIALS = ("ad", "ct", "fa", "md", "rd")  # of people, unless they are all of a name


@dataclass(frozen=True, kw_only=True)
class PatientWords:
    """Words, numbers and dates of a name, without those of sequence and processing."""

    words: frozenset[str]
    numbers: tuple[str, ...]
    dates: frozenset[str]

    @property
    def key(self) -> str:
        """All of them in one text; empty where there are none.

        >>> patient_words("smith_20190101_flair_3d.nii.gz").key
        '20190101 smith'
        """
        return " ".join((*sorted(self.dates), *sorted(self.words), *self.numbers))


def patient_words(name: str) -> PatientWords:
    """The words of a file's or folder's name that may identify a patient or a visit."""
    rest = plain(name)
    dates = frozenset("".join(match.groups()) for match in _DATE.finditer(rest))
    rest = _NO_WORDS.sub(" ", _DATE.sub(" ", rest))
    parts = re.findall(r"[a-z0-9]+", rest.replace("flair", " flair "))
    return PatientWords(
        words=frozenset(part for part in parts if not part.isdigit() and part not in _TECHNICAL and not names_image(part)),
        numbers=tuple(part.lstrip("0") or "0" for part in parts if part.isdigit()),
        dates=dates,
    )


def names_image(word: str) -> bool:
    """Whether a word or a folder names a sequence or another image, and is not likely to be the initials of a person."""
    return word.lower() not in _INITIALS and identify(word) is not None
