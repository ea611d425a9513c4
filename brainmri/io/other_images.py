"""Names of images that are no FLAIR, T1, T2 or PD: maps, subtractions, projections, other kinds of MR and other modalities.

`tests/io/test_other_images.py` has examples, and names of sequences that are like them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

SEGMENTATION, PERFUSION = "segmentation", "perfusion or dynamic"
COUNTABLE = (SEGMENTATION, "localizer", "map", "subtraction", "projection", "mosaic", "screen capture")


def whole_words(pattern: str) -> re.Pattern:
    """A pattern of alternatives that must neither follow nor precede a letter."""
    return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


# after "sub": the number or the name of a subject, or the end of another word
_NO_SUBTRACTION = (
    r"(?![a-z0-9])(?!-(?!t[12])[a-z0-9])(?![_ ]*(?!t[12]|[23]d)(?:\d|[a-z]+\d))"
    r"(?![-_ ]*(?:acute|arach|chron|cort|cut|dural|milli|mm|occip|total|ventr))"
)
# of images that no MR scanner makes
MODALITIES = {
    "PET or SPECT": whole_words(
        r"[rsw]?pet(?:ct)?(?![-_/ ]?mr)|(?:18f-?)?(?:fdg|fet|f?dopa)|suv\w*|pib|av-?(?:45|1451)|florbet\w*|flutemet\w*"
        r"|dota(?:tate|toc)|spect(?:ct)?|datscan"
    ),
    "CT": whole_words(r"(?:cb|ce|mv|nc|p|pseudo|s|syn)?ct[ap]?(?![0-9])|tomodensitometr\w*"),
    "X-ray": whole_words(r"dsa|x-?ray\w*|radiograph\w*|fluoroscop\w*"),
    "ultrasound": whole_words(r"ultrasound|ius|i?us[-_ ]?(?:before|during|after|pre|post)\w*"),
}
# a DICOM image has its modality in the header, and segmentations have a class of their own
NOT_IN_DICOM = (SEGMENTATION, *MODALITIES)
# names of other images; the first match counts
OTHERS = {
    SEGMENTATION: re.compile(
        r"(?<![a-z])(?:(?:a|d|prob|tumou?r|lesion|brain|tissue|wm|gm|synth|auto|manual|fast)?seg|segm|segmentations?|labels?"
        r"|label[-_ ]?maps?|labelst[rs]|roi|lesions?|gtv|ctv|ground.?truth|rt.?struct)(?![a-z])"
        r"|masks?(?![a-z])|(?<![a-z])o\.ot(?![a-z])|(?<=[-_])(?:[gw]m|csf)$"
        r"|(?<![a-z])(?:wmh|prob(?:ability|map)?|pred(?:iction|icted)?|contours?|annotations?|gt|glistr[a-z]*)$"
        # tissues and regions by FSL, ANTs, FreeSurfer, SPM ("c1T1") and CAT12 ("mwp1T1")
        r"|(?<![a-z])(?:pve(?:seg|_\d)|tissue[-_ ]?class|aparc|ribbon)|segmentationposteriors|parc(?:ellation)?(?![a-z])"
        r"|^(?:s\d*|m0?w|m|r|w){0,3}c[1-6](?=t[12]|anat|struct|sub|[ms]?prage)|^s?m0?wp[0-6]"
    ),
    **MODALITIES,
    "diffusion": re.compile(
        r"(?<![a-z])(?:[a-z]{0,4}(?:dwi|adc)(?:sg|map)?|d-?mri|dti|diff|dif+usi(?:on|one|e|vity)|difusao|hardi|trace ?w?|ivim|dki"
        r"|noddi|resolve|muse|tensor|tractogra\w*|nodif|average[-_ ]?dc|isotropic[-_ ]?images?|fractional ?anis\w*"
        r"|(?:col|colou?r|rgb)?[-_ ]?g?fa(?![-_ =]*\d{1,2}(?!\d|mm))"  # not the flip angle, "FA 15"
        r"|b[ _=-]?[1-9]\d{2,3}|b[ _=-]?0(?![0-9])(?!.?map))(?![a-z])|^(?!.*(?:t1|t2|flair|rage)).*(?<![a-z])[amr]d$"
    ),
    "susceptibility": re.compile(
        r"(?<![a-z])(?:swi\w*|swan\w*|swip|ven ?_?bold|susc\w*|[rt]2[-_ ]?star\w*|t2s|t2w?[ _]?ffe|qsm|chi[-_ ]?map|hemo"
        r"|fe?fe ?t2|fsbb|bsi|mag_images|t2 eg|t2 echo de gradient)(?![a-z])|(?<![a-z])[rt]2 ?\*"
    ),
    "spectroscopy": whole_words(r"mrsi?|mrsref|csi|svs|spectro\w*|sv ?press|mega-?press|naa|probe-[ps]|metabolite\w*"),
    "CEST": whole_words(r"apt-?(?:w|weighted|cest)?|cest\w*|mtr[-_ ]?asym\w*"),
    PERFUSION: whole_words(
        r"perf\w*|pwi|dsc|dce|p?c?asl|asl|[a-z]{0,3}(?:cb[fv]|mtt|ttp)|rbv|t[-_ ]?max|[gp]bp|m0scan"
        r"|transit[-_ ]?(?:delay|time)|blood[-_ ]?(?:flow|vol(?:ume)?)"
        r"|k[-_ ]?trans|kep|i?auc|enh[-_ ]?integral|time[-_ ]to[-_ ](?:enhance|peak)|wash[-_ ]?(?:in|out)|dyn\w*|tw(?:ist)?"
    ),
    "angiography": re.compile(
        r"(?<![a-z])(?:tof|ce)?[ _-]?mr[av](?![a-z])|(?<![a-z0-9])(?:\dd ?)?tof|(?<![a-z0-9])(?:[sm]?\dd[ _]?)?pca(?![a-z])"
        r"|angio|venogr|phase[-_ ]?contrast|inhance|(?<![a-z])tricks|(?:q|4d)[-_ ]?flow|(?<![a-z])mc_hr$"
        r"|[23]d[-_ ]?pc(?![a-z])|(?<![a-z])pc[-_ ]?[23]d"
    ),
    "functional": whole_words(
        r"f?mri ?rest\w*|bold(?:ref)?|rest(?:ing)?|(?:rs|r|t)?-?fmri|epi ?task|fe_?epi|sbref|mocoseries|evaseries"
    ),
    "localizer": re.compile(
        r"locali[sz]|lokali|locator|scout|reperage|ubersicht|calib|shim|smart ?(?:brain|survey)|ref[ _]?scan"
        r"|(?<![a-z])(?:loc|survey|topogram|plan[- _]?scan|3[ -]?pl(?:ane)?|(?:asset|head)[ _]cal|cal[ _]head)(?![a-z])"
    ),
    "map": re.compile(
        r"(?<![a-z0-9])(?:[rt]?[brst][012]w?|pd|mwf|field|phase|heat|saliency)[-_ ]?(?:maps?(?![a-z])|mapping|rho)|relaxometry"
        r"|(?<!bit)(?<!brain)(?<!brain[-_ ])(?<!road)maps?[-_ ]?\d*$|(?<![a-z])mt(?:r|v|s|w|sat)(?![a-z0-9])"
        r"|phasediff|(?<=_)(?:magnitude[12]?|phase[12])$|mp2.?rage.*[_ -]t1[_ ]images|jacobian|bias[-_ ]?field(?![-_ ]?corr)"
        r"|cort[a-z]*[-_ ]?thickness|_thickness$|(?<![a-z])(?:mrac|spm[tf]_\d|[tz]stat)|grad-?cam"
        r"|(?<![a-z])(?:ratio|q(?:t[12]|pd))(?![a-z0-9])|t1wdividedby"
    ),
    "relaxometry": whole_words(r"(?<=_)(?:mese|vfa|irt1|mpm|tb1[a-z]+|rb1cor)$|(?:sh)?molli|despot\d?|mrf|finger-?print\w*"),
    "phase": re.compile(
        r"part-(?:phase|real|imag)|(?:filt|orig)_?pha|pha_images|(?<=[-_ ])pha$|_(?:ph|real|imaginary)[a-z]?$"  # last: dcm2niix
        r"|^(?:(?:ax|cor|sag|tra)[a-z]*[-_ ])?phase$|phase[-_ ]?im(?:g|ages?)?(?![a-z])"
        r"|(?:t[12]w?|flair|gre|ffe|ir|wrapped)[-_ ]?phase$"
        # not "in_phase" and "opposed_phase" of a Dixon, nor "venous_phase", "arterial_phase" and "late_phase"
        r"|(?<!in)(?<!of)(?<!out)(?<!opp)(?<!sed)(?<!ous)(?<!ial)(?<!tal)(?<!late)(?<!rly)(?<!yed)_phase$"
    ),
    "subtraction": re.compile(
        r"subtr|su(?:b|s)trac|differen[cz]|soustr|sottr|(?<![a-z])resta(?![a-z])"
        rf"|(?<![a-z0-9])subs?{_NO_SUBTRACTION}|(?:t1|post|rage).*[_ ]sub[_ ]\d"
        r"|(?<![a-z])sub(?=t1)|(?<=t1)sub(?![a-z0-9])|delta[-_ ]?t1|t1[-_ ]?delta|t1(?:c|ce|gd)[-_ ]*(?:-|minus)[-_ ]*t1(?![a-z])"
        r"|post[-_ ]?(?:contrast|gad[a-z]*|gd|c)?[-_ ]*(?:-|_|minus)[-_ ]*(?:t1[-_ ]?)?pre"
        r"(?![a-z]|[-_ ]?(?:op|treat|tx|rt|surg|resect|biops))"
    ),
    "projection": whole_words(r"(?:thin)?mips?|min[-_ ]?ip|mnip|pjn|vrt|volume[-_ ]?render\w*"),
    # only fat, without water
    "Dixon fat": re.compile(r"dixon.*[-_ ]f(?:at)?$|^fat:|(?<![a-z])fat[-_ ]?(?:fraction|only|images?)(?![a-z])"),
    # inversion recovery with the times of a FLAIR or a T1, but another contrast
    "double inversion recovery": whole_words(r"dir(?!-?\d)|(?:double|dual)[ _-]*(?:ir|inv\w*)"),
    "PSIR": whole_words(r"psir\w*|phase[ _-]?sensitive"),
    "raw MP2RAGE": re.compile(r"mp2.?rage.*(?<![a-z])inv(?:ersion)?[ _-]?[12](?![0-9])|(?<![a-z])inv-[12]_.*mp2rage"),
    "white-matter-nulled T1": whole_words(r"fgatir|wmn|white.?matter.?null\w*"),
}

# what values of DICOM's ImageType say, if it is not what the same word says in a name
TYPES = {
    "MOSAIC": "mosaic", "SCREEN SAVE": "screen capture", "EXP": "diffusion", "FAT": "Dixon fat", "FLOW_ENCODED": "angiography",
    **dict.fromkeys(("PROJECTION IMAGE", "MAX_IP", "MAXIMUM", "MINIMUM"), "projection"),
    **dict.fromkeys(("PHASE", "P", "P_FFE", "P_SE", "P_IR", "I", "IMAGINARY", "PHASE MAP", "PHASE CONTRAST M"), "phase"),
    **dict.fromkeys(("REAL", "R", "R_FFE", "R_SE", "R_IR"), "phase"),
    **dict.fromkeys(("SUBTRACT", "SUBTRACTION"), "subtraction"),
    **dict.fromkeys(("STD_DEVIATION", "TEMPERATURE", "VELOCITY"), "map"),
}  # fmt: skip


def other_image(name: str, without: Collection[str] = ()) -> str | None:
    """What a name says that an image is, if that is one of `OTHERS`.

    Args:
        name: in lower case, without accents and suffix.
        without: those of `OTHERS` that it cannot be.
    """
    return next((other for other, pattern in OTHERS.items() if other not in without and pattern.search(name)), None)


def other_by_type(values: Collection[str]) -> str | None:
    """What the values of a DICOM image's ImageType, in upper case, say that it is, if that is one of `TYPES` or `OTHERS`."""
    for value in sorted(values):
        if found := TYPES.get(value) or other_image(value.lower(), NOT_IN_DICOM):
            return found
    return None
