"""Sequences are recognised by what vendors, archives and languages call them, and by the physics in a DICOM header."""

import pytest

from brainmri.io.sequence_names import FLAIR_T2, POST_T1, PRE_T1, Physics, identify

P, F, C = PRE_T1, FLAIR_T2, POST_T1
DIR, RAW = "double inversion recovery", "raw MP2RAGE"
NAMES = {
    "Siemens": [
        ("t2_tirm_tra_dark-fluid", F), ("t2_space_dark-fluid_sag_p2_iso", F), ("*tir2d1_16", F), ("TIRM", F), ("da-fl", F),
        ("fla", F), ("t1_mprage_sag_p2_iso", P), ("t1_space_sag_p2_iso_KM", C), ("t1_fl2d_tra", P), ("t2_tse_tra", "T2"),
        ("ep2d_diff_b1000", "diffusion"), ("t2_swi_tra", "susceptibility"), ("t2_spc_ir_sag_iso", F), ("MP-RAGE", P),
        ("AAHScout_64ch", "localizer"), ("relCBV", "perfusion or dynamic"), ("Mag_Images", "susceptibility"),
        ("Pha_Images", "phase"), ("t1_starvibe_km", C),
    ],
    "GE": [
        ("Ax T2 FLAIR Propeller", F), ("Sag CUBE FLAIR", F), ("AX T1 FLAIR", P), ("T1 AX FLAIR", P), ("T1FLAIR post", C),
        ("AX 3D BRAVO +C", C), ("Ax SPGR", P), ("FSPGR 3D POST", C), ("Ax SWAN", "susceptibility"), ("3 plane loc", "localizer"),
        ("AX GRE T2*", "susceptibility"), ("AX T2 FSE", "T2"), ("AX MPGR", "susceptibility"), ("Fractional Aniso.", "diffusion"),
        ("PJN:COW", "projection"), ("Cal Head 24", "localizer"), ("AX T1 GRE", P), ("OAxT1", P),
    ],
    "Philips": [
        ("3D_Brain_VIEW_FLAIR_SHC", F), ("FLAIR_longTR", F), ("T2W_FLAIR +C", F), ("sT1W_3D_TFE", P), ("sT1W_3D_TFE_KM", C),
        ("T1W_SE_TRA +GD", C), ("VEN_BOLD", "susceptibility"), ("DWI_b1000", "diffusion"), ("SURVEY", "localizer"),
        ("T2W_TSE_SPIR", "T2"), ("T2W_SPAIR", "T2"), ("T1_SPIR_Gd", C), ("dDWI", "diffusion"), ("T2_FFE", "susceptibility"),
        ("s3D_PCA", "angiography"), ("SmartBrain", "localizer"), ("COCA Ref scan", "localizer"), ("FEEPI", "functional"),
    ],
    "United Imaging": [("t2_fse_flair_tra", F), ("t1_gre_fsp_3d_sag", P), ("tra t1_fse +c", C)],
    "SPM and datasets": [("mT1.nii", P), ("wmT1.nii", P), ("rT2.nii", "T2"), ("wFLAIR.nii", F), ("T1_C.nii", C), ("MTR", "map")],
    "Canon": [("AX T1W SE", P), ("Ax Flair FS", F), ("FE3D T1 GD", C), ("Locator", "localizer"), ("FSBB", "susceptibility")],
    "BIDS": [
        ("sub-01_T1w.nii.gz", P), ("sub-01_FLAIR.nii.gz", F), ("sub-01_ses-T1_FLAIR.nii.gz", F), ("sub-12_ce-gd_T1w", C),
        ("sub-01_space-FLAIR_T1w.nii.gz", P), ("sub-01_dwi.nii.gz", "diffusion"), ("sub-01_ce-gadolinium_T1w", C),
        ("sub-01_ce-none_T1w.nii.gz", P), ("sub-01_UNIT1.nii.gz", P), ("sub-01_inplaneT2.nii.gz", "T2"),
        ("sub-01_part-phase_FLAIR.nii.gz", "phase"), ("sub-01_magnitude1.nii.gz", "map"), ("sub-01_MEGRE.nii", "susceptibility"),
        ("sub-01_dseg.nii.gz", "segmentation"), ("sub-01_sbref.nii.gz", "functional"),
    ],
    "BraTS": [
        ("BraTS20_Training_001_flair.nii.gz", F), ("BraTS20_Training_001_t1ce.nii.gz", C), ("BraTS20_Training_001_t1.nii.gz", P),
        ("BraTS-GLI-00000-000-t1n.nii.gz", P), ("BraTS-GLI-00000-000-t1c.nii.gz", C), ("BraTS-GLI-00000-000-t2f.nii.gz", F),
        ("BraTS-GLI-00000-000-t2w.nii.gz", "T2"), ("BraTS-GLI-00000-000-seg.nii.gz", "segmentation"),
        ("UCSF-PDGM-0004_T1c_bias", C), ("UPENN-GBM-00001_11_T1GD", C), ("VSD.Brain_3more.XX.O.OT.54515.mha", "segmentation"),
        ("VSD.Brain.XX.O.MR_Flair.684.mha", F), ("CT1_r2s_bet_reg.nii.gz", C), ("BraTS-MEN-RT-0001-1_gtv.nii.gz", "segmentation"),
        ("TCGA-CS-4942_GlistrBoost.nii.gz", "segmentation"),
    ],
    "masks": [
        ("tumor.nii.gz", "segmentation"), ("tumour.nii", "segmentation"), ("tumorseg.nii.gz", "segmentation"),
        ("labelsTr", "segmentation"), ("sub_GM.nii.gz", "segmentation"), ("case1_WM.nii", "segmentation"), ("tumor", None),
        ("glioma_tumor", None), ("no_tumor.nii", None), ("tumor_flair.nii.gz", F), ("GM.nii.gz", None),
    ],
    "registered": [
        ("T1_to_FLAIR", P), ("T1_regtoFLAIR", P), ("regtoFLAIR_T1", P), ("t1ce_to_flair.nii", C), ("flair_in_T1_space", F),
        ("FLAIR_mask", "segmentation"), ("flair_seg", "segmentation"), ("anat_t1w_reg_flair", P), ("T2_to_T1", "T2"),
        ("FLAIR_warped_T1", F), ("flair_t1space.nii.gz", F), ("flair_prob.nii", "segmentation"), ("ground_truth", "segmentation"),
    ],
    "English": [
        ("AX T1 WO CONTRAST", P), ("AX T1 W/O", P), ("T1 NO GAD", P), ("T1 without contrast", P), ("T1 pre contrast", P),
        ("AX T1 -C", P), ("T1 C+", C), ("T1 enhanced", C), ("AX T1 POST GD", C), ("AX T1 W CONTRAST", C), ("AX T1 WITH", C),
        ("T1 postop", P), ("T1 POST SUB", "subtraction"), ("t1_vibe_dce", "perfusion or dynamic"), ("T1 map", "map"),
        ("AX T1 W+", C), ("AX T1 POSTCON", C), ("AX T1 WC", C), ("T1 multihance", C), ("t1wc", C), ("T1_plus_C", C),
        ("T1 Gd-", P), ("T1 post-treatment", P), ("AX T1 POST FOSSA", P), ("AX T1 POST TRA", C), ("T1 -Gd", P), ("T1-Gd", C),
        ("TBI_injury_T1", P), ("Fluid-attenuated inversion recovery", F), ("AX T1 MT", P), ("b=1000", "diffusion"),
        ("T2-star", "susceptibility"),
    ],
    "French": [
        ("T1 SANS INJECTION", P), ("T1 injecté", C), ("T1 après injection", C), ("T1 sans produit de contraste", P),
        ("SAG T1 IV", C), ("T2 écho de gradient", "susceptibility"), ("repérage", "localizer"),
    ],
    "Spanish": [
        ("T1 sin contraste", P), ("T1 con contraste", C), ("T1 contrastado", C), ("T1 C/C", C), ("T1 +CIV", C), ("T1 sin cte", P),
        ("T1 previo al contraste", P), ("difusión", "diffusion"),
    ],
    "German": [
        ("t1_ohne_KM", P), ("T1 ax nativ", P), ("t1 mit KM", C), ("T1 tra nach KM", C), ("t1 tra o. KM", P), ("t1_tra_oKM", P),
        ("t1_tra_mKM", C), ("T1 -KM", P), ("T1 prä KM", P), ("T1 KM-frei", P), ("T1 kein KM", P), ("Übersicht", "localizer"),
        ("t1 km+", C),
    ],
    "Italian": [
        ("T1 senza mdc", P), ("T1 con mdc", C), ("T1 dopo gadolinio", C), ("T1 s/mdc", P), ("T1 prima mdc", P),
        ("T1 con m.d.c.", C), ("diffusione", "diffusion"),
    ],
    "Portuguese and Dutch": [
        ("T1 sem contraste", P), ("T1 pós contraste", C), ("T1 zonder contrast", P), ("T1 met contrast", C),
        ("T1 s/ contraste", P), ("T1 voor contrast", P), ("difusão", "diffusion"), ("T1 na gd", C),
    ],
    "Polish and Swedish": [("T1 bez kontrastu", P), ("T1 po kontraście", C), ("T1 före kontrast", P), ("T1 med kontrast", C)],
    "inversion recovery": [
        ("t2_space_DIR_sag", DIR), ("Sag DIR.nii.gz", DIR), ("DIR FLAIR", DIR), ("MAGiC DIR", DIR), ("dual IR", DIR),
        ("Double Inversion Recovery", DIR), ("sub-01_dir-AP_FLAIR", F), ("sub-01_dir-AP_T1w", P), ("directory", None),
        ("AX PSIR", "PSIR"), ("T1_PSIR_tra", "PSIR"), ("Phase-sensitive IR", "PSIR"), ("AX STIR", "STIR"),
        ("mp2rage_sag_p3_INV1", RAW), ("MP2RAGE_INV2.nii", RAW), ("sub-01_inv-2_MP2RAGE.nii.gz", RAW), ("mp2rage_UNI_Images", P),
        ("mp2rage_T1_Images", "map"), ("sub-01_FGATIR.nii.gz", "white-matter-nulled T1"), ("FLAIR_ph.nii", "phase"),
        ("T1_IR_real.nii.gz", "phase"), ("flair_phase.nii", "phase"),
    ],
    "files": [
        ("pre.nii", P), ("post.nii", C), ("flair.nii (1).gz", F), ("sub01_T1.nii", P), ("sub_01_t1", P), ("pat1_T1_km.nii", C),
    ],
    "none": [("patient1", None), ("", None), ("presurgery", None), ("T10", None), ("brain_tumor.nii", None), ("patient_c", None)],
}  # fmt: skip


@pytest.mark.parametrize("vendor", NAMES)
def test_names_of_sequences(vendor):
    assert [(words, identify(words)) for words, _ in NAMES[vendor]] == NAMES[vendor]


OF_FLAIR = {"inversion_time": 2500, "echo_time": 120, "repetition_time": 9000}
OF_T1 = {"inversion_time": 750, "echo_time": 10, "repetition_time": 2000}
SPIN_ECHO = {"inversion": False, "repetition_time": 600, "echo_time": 12}


@pytest.mark.parametrize(
    ("words", "physics", "sequence"),
    [
        ("", {"inversion_time": 2500, "echo_time": 120, "repetition_time": 9000}, F),
        ("AX T1", {"inversion_time": 2500, "echo_time": 120, "repetition_time": 9000}, F),
        ("AX FLAIR", {"inversion_time": 750, "echo_time": 10, "repetition_time": 2000}, P),
        ("AX FLAIR", {"inversion_time": 750, "echo_time": 10, "repetition_time": 2000, "contrast": True}, C),
        ("MPRAGE", {"inversion_time": 900, "echo_time": 3, "repetition_time": 1900, "contrast": True}, C),
        ("AX FLAIR", SPIN_ECHO, P),
        ("brain", SPIN_ECHO, P),
        ("brain post gd", SPIN_ECHO, C),
        ("brain", {"inversion": False, "repetition_time": 4500, "echo_time": 95}, "T2"),
        ("AX FLAIR", {"echo_time": 95, "repetition_time": 9000}, F),  # the header does not say whether it inverts
        ("", {"acquisition_contrast": "FLUID_ATTENUATED"}, F),
        ("Planted", {"acquisition_contrast": "T1", "contrast": True}, C),
        ("AX FLAIR", {"b_value": 1000.0}, "diffusion"),
        ("MS lesion protocol FLAIR", {}, F),
        ("marked lesion<MPR Collection>", {}, None),
        ("AX T1", {"image_type": frozenset({"DERIVED", "PRIMARY", "PERFUSION", "RELCBV"})}, "perfusion or dynamic"),
        ("3D FFE", {"image_type": frozenset({"ORIGINAL", "PRIMARY", "PHASE MAP"})}, "phase"),
        ("AX T1", {"image_type": frozenset({"DERIVED", "SUBTRACTION"})}, "subtraction"),
        ("AX FLAIR", {"image_type": frozenset({"ORIGINAL", "PRIMARY", "P"})}, "phase"),
        ("AX FLAIR", {"image_type": frozenset({"DERIVED", "SECONDARY", "MPR"})}, F),
        ("3D DIR", OF_FLAIR, DIR),
        ("AX STIR", OF_FLAIR, "STIR"),
        ("AX PSIR", OF_T1, "PSIR"),
        ("AX T1 PSIR", OF_T1 | {"contrast": True}, "PSIR"),
        ("MP2RAGE_INV1", OF_T1, RAW),
        ("MP2RAGE_INV2", {"inversion_time": 2500, "echo_time": 3, "repetition_time": 5000}, RAW),
        ("FGATIR", OF_T1, "white-matter-nulled T1"),
        ("T2 FLAIR phase map", OF_FLAIR, "map"),
        ("", OF_FLAIR | {"inversions": 2}, DIR),
        ("MP2RAGE UNI", OF_T1 | {"inversions": 2}, P),
        ("AX IR", OF_T1 | {"image_type": frozenset({"ORIGINAL", "PRIMARY", "R_IR"})}, "phase"),
    ],
)
def test_the_header_outweighs_the_name(words, physics, sequence):
    assert identify(words, Physics(**physics)) == sequence
