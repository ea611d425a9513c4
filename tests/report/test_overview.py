"""Entries in a few words, for the tables of models."""

from dataclasses import replace

import pytest

from brainmri.report.overview import input_names
from brainmri.zoo.records import Training
from brainmri.zoo.registry import DEFAULT, find_entry


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ((), "axial; FLAIR or three sequences"),
        (("T2",), "axial; T2"),
        (("three sequences", "T1c", "FLAIR"), "axial; FLAIR or T1c or three sequences"),
        (("diffusion",), "axial; diffusion"),  # a name of people's own data
    ],
)
def test_the_inputs_are_those_of_the_training(sequences, expected):
    entry = find_entry("effunet-lgg")
    assert input_names(replace(entry, training=replace(entry.training, sequences=sequences))) == expected


def test_an_entry_that_recognises_sequence_and_plane_takes_all():
    assert input_names(replace(find_entry(DEFAULT), training=Training(sequences=("T2",)))) == "any sequence and plane"
