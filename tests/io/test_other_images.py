"""Maps, subtractions and images of other modalities are not read as FLAIR, T1, T2 or PD, nor sequences as one of those."""

import numpy as np
import pytest
import tifffile

from brainmri.io.images import other_by_name
from brainmri.io.other_images import other_by_type
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import list_sequences, read_slice, read_study
from brainmri.io.sequence_names import FLAIR_T2, POST_T1, PRE_T1, Physics, identify
from tests.support.phantom import images, save
from tests.support.studies import png

SPIN_ECHO = Physics(inversion=False, repetition_time=600, echo_time=12)  # of a T1
# names of files and of DICOM series
OTHERS = {
    "subtraction": [
        "Sub T1 post-pre", "T1 SUB", "SUB", "Sub", "AX T1 POST SUB", "SUB:AX T1", "SUB(5-3)", "t1_vibe_tra_SUB", "t1_sub.nii.gz",
        "t1_sub_tra", "sub_t1.nii", "subT1.nii", "T1sub.nii", "T1 SUB 1", "Sub - Ax T1 +C", "T1 (sub)", "T1_subtraction.nii",
        "T1 subtracted", "SUBTRACTION AX", "Subtraktion T1", "soustraction T1", "sustracción T1", "sottrazione T1",
        "subtração T1", "T1 post minus pre", "post_pre_T1.nii", "T1 POST - PRE", "T1 post-contrast minus pre", "SUB 3D T1",
        "sub-T1 post", "t1ce-t1.nii", "T1c_minus_T1.nii", "delta_T1.nii", "T1 resta", "AX_T1_POST_SUB_12.nii",
        "T1_sub_012.nii.gz", "T1 post - T1 pre", "T1 difference", "T1 delta", "sub-01_acq-sub_T1w.nii", "AX SUBS",
    ],
    "diffusion": [
        "FA", "FA.nii.gz", "dti_FA.nii.gz", "sub-01_FA.nii.gz", "FA_ColFA", "ColFA", "DTI_30dir_ColFA", "Color FA", "FA map",
        "GFA", "FMRIB58_FA_1mm", "RGB_FA", "MD.nii.gz", "sub-01_MD.nii", "RD.nii", "AD.nii", "dti_L1.nii", "mean diffusivity",
        "radial_diffusivity.nii", "ADC", "ADC (10^-6 mm2/s)", "eADC", "rADC.nii", "wADC.nii", "ADCmap", "ADC_map.nii",
        "ep2d_diff_ADC", "Apparent Diffusion Coefficient (mm2/s)", "Exponential Apparent Diffusion Coefficient", "Average DC",
        "TRACE", "ep2d_TRACEW", "trace image", "DWI", "rDWI.nii", "cDWI", "synDWI b2000", "AX DWI B=1000", "Isotropic Image",
        "TENSOR", "_TENSOR_B0", "dMRI_dir98_AP", "tractography", "NODDI_ODI.nii", "nodif_brain.nii.gz", "sub-01_dwi.nii.gz",
        "AX MUSE", "DTI_gated_EXP", "DWI_to_T1.nii", "ADC_to_FLAIR.nii",
    ],
    "susceptibility": [
        "SWI", "SWI_Images", "AX SWAN", "QSM", "T2*", "AX T2* GRE", "T2star", "AXIAL_T2_STAR", "sub-01_T2starw.nii.gz", "R2*",
        "R2star", "R2Star_Images", "sub-01_R2starmap.nii.gz", "R2* map", "T2* map", "sub-01_Chimap.nii.gz", "T2_FFE",
        "Susceptibility map", "T2star_map.nii",
    ],
    "phase": [
        "Pha_Images", "FLAIR_ph.nii", "T1_e2_ph.nii.gz", "T1_e1_pha.nii", "T1_phase_image", "T1 phase", "T1_PHA.nii",
        "t1_real.nii", "T1_imaginary.nii", "FLAIR phase images", "sub-01_part-phase_T1w.nii.gz", "unwrapped_phase.nii",
        "T1 GRE PHASE", "AX PHASE",
    ],
    "map": [
        "T1 map", "T1map.nii", "sub-01_T1map.nii.gz", "T2 map", "T2_map.nii", "sub-01_T2map.nii.gz", "R1map", "R2 map",
        "sub-01_PDmap.nii.gz", "T1 mapping", "T1 MAP MOLLI", "B0 map", "B1map", "field map", "gre_field_mapping",
        "sub-01_fieldmap.nii.gz", "MTR", "MTsat.nii", "sub-01_MWFmap.nii.gz", "T1rho", "sub-01_S0map.nii", "sub-01_TB1map.nii.gz",
        "t2 relaxometry", "heatmap_T1.nii", "T1_heatmap_12", "saliency map", "jacobian_T1.nii", "T1_biasfield.nii.gz",
        "mp2rage_T1_Images", "T1_thickness.nii", "MRAC map", "umap.nii", "spmT_0001.nii", "zstat1.nii.gz", "Mean_&_t-Maps",
        "T1_Colormap", "T1w/T2w ratio", "T1_T2_ratio.nii", "sub-01_phasediff.nii.gz",
    ],
    "relaxometry": [
        "sub-01_MESE.nii.gz", "sub-01_VFA.nii.gz", "sub-01_IRT1.nii.gz", "sub-01_flip-1_mt-on_MPM.nii.gz", "MOLLI T1", "DESPOT1",
        "sub-01_TB1EPI.nii.gz", "T1 MRF", "fingerprinting",
    ],
    "perfusion or dynamic": [
        "CBF", "CBV", "rCBV", "rCBV_map.nii", "relCBF", "nrCBV", "rBV", "MTT", "TTP", "Tmax", "T1_perfusion", "ASL", "pASL",
        "pasl_3d_tra", "pCASL", "3D ASL (CBF)", "(Transit delay) 3D ASL", "AX DSC", "DCE", "Ktrans", "Kep.nii", "IAUC",
        "AX T1 DYNAMIC", "PWI", "sub-01_asl.nii.gz", "sub-01_m0scan.nii.gz", "Perfusion_Weighted", "Cerebral_Blood_Flow.nii",
        "Mean Transit Time", "Neg Enh Integral", "Mean Time To Enhance", "T1 TWIST", "T1 wash-in", "rCBV leakage corrected",
    ],
    "functional": [
        "BOLD", "ep2d_bold_rest", "fMRI", "rfMRI_REST_AP", "rsfMRI_LR", "tfMRI_MOTOR", "resting state",
        "sub-01_task-rest_bold.nii.gz", "sub-01_sbref.nii.gz", "rs-fMRI", "MoCoSeries", "EvaSeries_GLM", "sub-01_boldref.nii.gz",
    ],
    "angiography": [
        "MRA", "TOF", "TOF_3D_multi-slab", "3D TOF MRA", "MRV", "CE-MRA", "2D PC", "3D_PC_venogram", "phase contrast", "PC 3D",
        "angio", "sub-01_angio.nii.gz", "MR venography", "4D flow", "QFLOW", "TRICKS", "Inhance 3D Velocity", "s3DI_MC_HR",
    ],
    "projection": [
        "MIP", "mIP_Images(SW)", "T1 MIP", "MIPS COR", "ThinMIP T1", "T1_mip.nii", "MinIP", "min IP", "VRT T1",
        "Volume Rendering",
    ],
    "spectroscopy": [
        "MRS", "csi_slaser", "MRSI", "SV PRESS 35", "NAA", "spectroscopy", "sub-01_mrsi.nii.gz", "PROBE-P", "metabolite map",
    ],
    "CEST": ["APT", "APTw", "APT-CEST", "APTw_3D", "T1_CEST.nii", "MTRasym"],
    "Dixon fat": ["t1_vibe_dixon_F", "t1_vibe_dixon_tra_fat", "FAT: Ax T1", "T1 fat fraction", "fat only T1"],
    "localizer": ["localizer", "AAHead_Scout_MPR_sag", "Survey", "ASSET calibration", "scout T1", "loc T1", "T1 localiser"],
    "echo-planar": ["ep2d_se_ap", "sub-01_epi.nii.gz", "SE EPI"],
}  # fmt: skip
# those that name no other image in a DICOM series, whose modality is MR and which stores segmentations in a class of their own
OF_FILES = {
    "CT": [
        "CT", "CT.nii.gz", "ct_brain.nii", "sub-01_ct.nii.gz", "patient1_CT.nii", "CT (12).jpg", "ct_healthy (1).png", "CTA",
        "CTA_head.nii", "CTP", "NCCT.nii", "CBCT", "ROUTINE CT HEAD WO", "CT_to_T1.nii", "CT_to_MRI.nii", "pCT.nii",
        "head CT post contrast", "synthetic_CT.nii", "CT_perfusion_head",
    ],
    "PET or SPECT": [
        "PET", "sub-01_pet.nii.gz", "FDG", "FDG_PET.nii", "SUV.nii", "SUVr.nii", "suvbw", "FET.nii", "F18_FLUTEMETAMOL",
        "amyloid_PET", "SPECT", "PET_to_T1.nii", "rPET.nii", "18F-FDG", "AV45.nii", "DaTSCAN", "PET_CT_fused",
    ],
    "X-ray": ["DSA.nii", "DSA_carotid", "x-ray head", "xray_12", "skull radiograph"],
    "segmentation": [
        "T1_mask.nii", "brainmask.mgz", "aseg.mgz", "aparc+aseg.mgz", "ribbon.mgz", "c1T1.nii", "c2anat.nii",
        "mwc1sub-01_T1w.nii", "rc1T1.nii", "mwp1T1.nii", "T1_pve_0.nii.gz", "T1_pveseg.nii.gz", "label-GM_probseg.nii.gz",
        "T1_GM.nii", "T1_csf.nii.gz", "labelmap.nii", "label_map_T1.nii", "lesionseg.nii", "T1_prob.nii.gz", "T1_label.nii",
        "wmparc.mgz", "T1_parcellation.nii", "T1_probmap.nii", "T1_BrainSegmentationPosteriors1.nii.gz", "tissue_classes_T1.nii",
    ],
}  # fmt: skip
# names of sequences that look like one of those
SEQUENCES = {
    PRE_T1: [
        "Subject01_T1", "sub-01_T1w.nii.gz", "sub01_T1.nii", "sub_01_t1", "sub 01 T1", "T1_sub01.nii", "T1_sub-012.nii.gz",
        "sub-ABC_T1w.nii", "sub-ct01_T1w.nii.gz", "T1 subacute infarct", "T1 subdural", "sub-mm T1", "T1 submillimeter",
        "SAG T1 FSE", "T1 phantom", "MPRAGE Phantom GRAPPA2", "alpha T1", "T1 MPRAGE FA8", "T1 FA=15", "T1_FA_15", "T1 FA 12deg",
        "t1_fl3d_fa20.nii", "T1 fast act", "T1 fat sat", "t1_vibe_dixon_W", "t1_vibe_dixon_in", "T1 in phase",
        "T1 DIXON FAT SUPPRESSED", "T1 out of phase", "T1 no phase wrap", "T1 3D isotropic", "T1 pre-post", "t1_mprage_moco",
        "T1_to_CT.nii", "T1_coreg_PET.nii", "ROSMAP_001_T1.nii", "brain mapping T1", "T1_AD.nii", "AD_T1.nii", "RD T1",
        "T1_BiasFieldCorrected.nii", "p1_T1.nii", "AX T1 ASSET", "T1 press office", "t1_mpr_ns_sag_p2_iso",
        "SAG MPRAGE GRAPPA2-NEW2016", "T1 EPI protocol", "AX T1 post RT", "T1 laser ablation", "T1 spectrum health", "T1 pethuel",
        "AX T1 MT", "T1 adult", "T1 aptitude", "T1 fetal", "t1_realign.nii", "rT1.nii", "wT1.nii", "T1_restored.nii",
        "T1_brain_restore.nii.gz", "T1 restaging", "T1 probe", "T1_magnitude_corrected.nii", "T1 petra", "T1 Connecticut",
        "T1 nmr lab", "T1_noneg.nii", "Brain 3T T1 Emphasis", "AX T1 C- ", "T1_avg.nii", "ax t1 dc",
        "T1_to_DWI.nii", "T1_2_ADC.nii", "T1w_space-func.nii", "T1_reg_to_fMRI.nii", "SPGR for CT fusion", "T1 for PET coreg",
    ],
    FLAIR_T2: [
        "Sub1_FLAIR.nii", "flair_sub-01.nii", "sub_ABC12_flair.nii", "sub-pet1_FLAIR.nii", "sub-acute stroke FLAIR",
        "Ax T2 FLAIR  ang to ac-pc", "flair_in_CT_space.nii", "TCGA-CS-4942_FLAIR.nii", "BRAIN MAP FLAIR", "MD_flair.nii",
        "c1_flair.nii", "3D T2  SPC FLAIR C9C1HN007", "Flair tractor",
    ],
    POST_T1: [
        "AX T1 contrast", "AX T1 FAT SAT +C", "T1 POST PREOP", "T1_post_pre-op.nii", "CT1_r2s_bet_reg.nii.gz", "T1c_bias",
        "T1w_MPR_Contrast", "AX T1 mdc",
    ],
    "T2": ["AX T2 AC-PC LINE"],
    None: ["actT1", "realT1"],
}  # fmt: skip


@pytest.mark.parametrize("kind", [*OTHERS, *OF_FILES])
def test_names_of_other_images(kind):
    names = OTHERS.get(kind) or OF_FILES[kind]
    assert {name: identify(name) for name in names} == dict.fromkeys(names, kind)


@pytest.mark.parametrize("kind", OTHERS)
def test_descriptions_of_other_images_outweigh_the_header(kind):
    assert {name: identify(name, SPIN_ECHO) for name in OTHERS[kind]} == dict.fromkeys(OTHERS[kind], kind)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_names_of_sequences_that_are_like_those_of_other_images(sequence):
    names = SEQUENCES[sequence]
    assert {name: identify(name) for name in names} == dict.fromkeys(names, sequence)


PICTURES = {
    "CT_12.png": "CT", "ct_healthy (1).png": "CT", "brain-CT.png": "CT", "pet-ct.png": "PET or SPECT",
    "x-ray.png": "X-ray", "T1_SUB.png": "subtraction", "t1_sub_12.png": "subtraction", "t1_phase_12.png": "phase",
    "FA_12.png": "diffusion",
    "adc_3.png": "diffusion", "swi_12.png": "susceptibility", "T1_map_3.png": "map", "heatmap_12.png": "map",
    **dict.fromkeys(
        ["sub_12.png", "SUB-12.png", "sub01_12.png", "Te-gl_0010.png", "gg (1).png", "TCGA_CS_4941_19960909_12.png",
         "flair_3.png", "t2_3.png", "lesion_3.png", "label_3.png", "dir1_12.png", "different_3.png",
         "case-ct01_12.png", "map of brain.png"]
    ),
}  # fmt: skip


def test_pictures_are_named_as_other_images(tmp_path):
    assert {name: other_by_name(name) for name in PICTURES} == PICTURES
    path = tmp_path / "t1_sub_1.png"
    path.write_bytes(png(7))
    warning = "the file is named as a subtraction; if it is something else, choose its sequence"
    for scan in (read_slice(path), read_study(path)):
        assert scan.single_sequence == "subtraction"
        assert warning in scan.warnings
    (tmp_path / "t1_sub_2.png").write_bytes(png(8))
    pages = tmp_path / "dti_FA.tif"
    tifffile.imwrite(pages, np.arange(3 * 32 * 32, dtype=np.uint16).reshape(3, 32, 32), photometric="minisblack")
    studies = read_study([path, tmp_path / "t1_sub_2.png"]), read_study(pages)
    assert [scan.single_sequence for scan in studies] == ["subtraction", "diffusion"]
    assert warning in studies[0].warnings
    assert warning.replace("a subtraction", "diffusion") in studies[1].warnings


@pytest.mark.parametrize("description", ["PET/MR T1", "T1 CT protocol", "T1 lesion", "T1 dsa"])
def test_a_description_names_no_other_modality(description):
    assert identify(description, SPIN_ECHO) == PRE_T1


def test_a_subtraction_is_not_read_as_a_sequence_of_its_study(tmp_path):
    alone = save(tmp_path / "alone", images(description="Sub T1 post-pre"))
    scan = read_study(alone)
    assert scan.single_sequence == "subtraction"
    assert scan.warnings[0] == "the series is a subtraction, not FLAIR"
    study = save(tmp_path / "study", images(description="AX FLAIR"), prefix="a")
    save(study, images(description="Sub T1 post-pre", series=2), prefix="b")
    assert [candidate.channel for candidate in list_sequences(study)] == [FLAIR, None]


@pytest.mark.parametrize(
    ("kind", "values"),
    {
        "subtraction": ["SUB", "SUBTRACT", "SUBTRACTION"],
        "projection": ["MIP", "CSA MIP", "MNIP", "MIN_IP", "MAX_IP", "PROJECTION IMAGE"],
        "phase": ["P", "PHASE", "P_FFE", "PHASE MAP", "PHASE CONTRAST M", "R", "REAL", "I", "IMAGINARY"],
        "diffusion": ["ADC", "TRACEW", "DIFFUSION", "DIFFUSION_ANISO", "DIFFUSION_ATTNTD", "FA", "TENSOR_B0", "EXP"],
        "susceptibility": ["SWI", "T2_STAR", "T2_STAR MAP", "R2_STAR MAP"],
        "perfusion or dynamic": ["ASL", "PERFUSION", "CBF", "RELCBV", "MTT", "TTP", "TMAX"],
        "map": ["T1 MAP", "T2_MAP", "B0 MAP", "VELOCITY MAP", "STD_DEVIATION", "TEMPERATURE"],
        "angiography": ["TOF", "ANGIO", "M_PCA", "FLOW_ENCODED"],
        "spectroscopy": ["METABOLITE_MAP"],
        "localizer": ["LOCALIZER"],
        "functional": ["FMRI"],
        "mosaic": ["MOSAIC"],
        "screen capture": ["SCREEN SAVE"],
        "Dixon fat": ["FAT"],
    }.items(),
)
def test_image_types_of_other_images(kind, values):
    assert {value: other_by_type({"DERIVED", "PRIMARY", value}) for value in values} == dict.fromkeys(values, kind)


@pytest.mark.parametrize(
    "values",
    [
        "ORIGINAL PRIMARY M ND NORM", "DERIVED SECONDARY MPR", "ORIGINAL PRIMARY M_SE M SE", "ORIGINAL PRIMARY M_FFE M FFE",
        "DERIVED SECONDARY REFORMATTED AVERAGE", "ORIGINAL PRIMARY FLUID_ATTENUATED NONE", "DERIVED PRIMARY DIS2D DIS3D",
        "ORIGINAL PRIMARY T1 MIXED", "DERIVED PRIMARY WATER", "DERIVED PRIMARY IN_PHASE OPP_PHASE OUT_PHASE",
        "DERIVED UNI FM3_2 FIL",
        "ORIGINAL PRIMARY M_IR M IR", "ORIGINAL PRIMARY OTHER MFSPLIT",
        "DERIVED SECONDARY RESAMPLED FILTERED PROCESSED MEAN",
    ],
)  # fmt: skip
def test_image_types_of_sequences(values):
    assert other_by_type(values.split()) is None
