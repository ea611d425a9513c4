"""The parts of an entry's `config.json` as frozen dataclasses.

`from_config` makes a record of what the file stores, and `config` gives it back. A new part is a dataclass here, a field of
`brainmri.zoo.entry.ModelEntry` and a line in `read_entry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which maps of `forward_features` the detector uses, by index: 0 is the image, 1 to 5 are maps at 1/2 to 1/32 of its size.

    Attributes:
        means, deviations: maps whose channel means and standard deviations over the slice make up the distance features.
        parts: maps whose channel means over a grid of parts of the slice (`ood.GRID`) make up the features of the second check.
    """

    means: tuple[int, ...] = ()
    deviations: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> FeatureSpec:
        """The record of what `config.json` stores."""
        return cls(**{name: tuple(indices) for name, indices in stored.items()})

    def config(self) -> dict:
        """What `config.json` stores."""
        return {name: list(indices) for name, indices in asdict(self).items()}

    def distance_size(self, channels: Sequence[int]) -> int:
        """The number of distance features D, given the `feature_channels` of a network."""
        return sum(channels[index] for index in (*self.means, *self.deviations))


@dataclass(frozen=True, kw_only=True)
class OodConfig:
    """The out-of-distribution detector (`brainmri.zoo.ood`).

    Attributes:
        sha256: of `ood.safetensors`.
        distance_threshold, other_threshold: a slice above either one is out of distribution.
        feature_spec: what the detector's features are computed from.
        any_plane: `OodDetector.any_plane`.
    """

    sha256: str
    distance_threshold: float
    other_threshold: float
    feature_spec: FeatureSpec
    any_plane: bool = False

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> OodConfig:
        """The record of what `config.json` stores."""
        return cls(**{**stored, "feature_spec": FeatureSpec.from_config(stored["feature_spec"])})

    def config(self) -> dict:
        """What `config.json` stores."""
        return {
            "sha256": self.sha256,
            "distance_threshold": self.distance_threshold,
            "other_threshold": self.other_threshold,
            "feature_spec": self.feature_spec.config(),
        } | ({"any_plane": True} if self.any_plane else {})


@dataclass(frozen=True, kw_only=True)
class SpecialistConfig:
    """The entry that decides in place of another one on slices like its own training data.

    Attributes:
        name: of the entry, or OWNER/NAME on the Hub.
        scope: the detector (`brainmri.zoo.ood`) that finds these slices by the features of the other entry.
        measured: by kind of slices, the number of `slices`, the share `inside` the scope, the number of `batches` (patients, or
            groups of pictures), and the share `decided` by the specialist if each is a study (`train.ood.fit_scope`).
    """

    name: str
    scope: OodConfig
    measured: dict[str, dict[str, float]]

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> SpecialistConfig:
        """The record of what `config.json` stores."""
        return cls(name=str(stored["name"]), scope=OodConfig.from_config(stored["scope"]), measured=stored["measured"])

    def config(self) -> dict:
        """What `config.json` stores."""
        return {"name": self.name, "scope": self.scope.config(), "measured": self.measured}


@dataclass(frozen=True, kw_only=True)
class QuantisedInfo:
    """The 8-bit network.

    Attributes:
        files: SHA-256 of `int8.xml` and `int8.bin`, by file name.
        measured: how far its metrics are from those in float32 (`train.release.quantise`).
    """

    files: dict[str, str]
    measured: dict[str, float]

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> QuantisedInfo:
        """The record of what `config.json` stores."""
        return cls(**stored)

    def config(self) -> dict:
        """What `config.json` stores."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SelfCheckOutputs:
    """A network's outputs on the bundled slice (`brainmri.analysis.selfcheck`).

    Attributes:
        probability: of tumour, in [0, 1]; None without a verdict.
        map: (8, 8) block means of the probability map, in [0, 1]; None without a mask.
    """

    probability: float | None = None
    map: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> SelfCheckOutputs:
        """The record of what `config.json` stores."""
        known: dict[str, Any] = dict(stored)
        if "map" in known:
            known["map"] = tuple(map(tuple, known["map"]))
        return cls(**known)

    def config(self) -> dict:
        """What `config.json` stores."""
        rows = None if self.map is None else [list(row) for row in self.map]
        return {name: value for name, value in {"probability": self.probability, "map": rows}.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """One run of a training command.

    Attributes:
        command: the module and its arguments, with placeholders for folders.
        samples: slices drawn.
        patients: patients trained on.
        teacher: name and hash of the entry it learned from.
        processes: the number of processes, if more than one.
        averages: the number of preceding stages whose weights it averages; 1 for those before and after the preceding stage.
        unites: the last stages, counted from 1, of the networks that it joins in an ensemble.
    """

    command: tuple[str, ...]
    samples: int
    patients: int
    teacher: str | None = None
    processes: int | None = None
    averages: int | None = None
    unites: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> TrainingStage:
        """The record of what `config.json` stores.

        Earlier versions stored the command as one string, "python -m train.segmenter --data DIR", which is split.

        Raises:
            ValueError: if the command is neither a string nor a list of strings.
        """
        command = stored["command"]
        if isinstance(command, str):
            command = command.removeprefix("python -m ").split()
        if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
            raise ValueError(f"expected a training command as a list of strings, got {command!r}; correct `training`")
        return cls(**{**stored, "command": tuple(command), "unites": tuple(stored.get("unites", ()))})

    def config(self) -> dict:
        """What `config.json` stores."""
        stored = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in stored.items() if value not in (None, [])}

    @property
    def command_line(self) -> str:
        """The command as it is typed."""
        return " ".join(["python", "-m", *self.command])

    @property
    def options(self) -> list[tuple[str, ...]]:
        """The module with its positional arguments, then each option with its values."""
        groups: list[list[str]] = [[]]
        for argument in self.command:
            if argument.startswith("--"):
                groups.append([])
            groups[-1].append(argument)
        return [tuple(group) for group in groups]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the weights were trained.

    Attributes:
        dataset: its name, source and licence; None if unknown.
        stages: in order.
        torch: the version of torch; None if unknown.
        sequences: the inputs that it was trained on, as the pipeline names them (`brainmri.zoo.attributes.SEQUENCES`, or another
            name of a single sequence); empty where the data do not say it, as in the entries trained on the LGG dataset.
    """

    dataset: str | None = None
    stages: tuple[TrainingStage, ...] = ()
    torch: str | None = None
    sequences: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> Training:
        """The record of what `config.json` stores."""
        stages = tuple(map(TrainingStage.from_config, stored.get("stages", ())))
        return cls(**{**stored, "stages": stages, "sequences": tuple(stored.get("sequences", ()))})

    def config(self) -> dict:
        """What `config.json` stores."""
        stored = {"dataset": self.dataset, "stages": [stage.config() for stage in self.stages], "torch": self.torch}
        stored["sequences"] = list(self.sequences)
        return {name: value for name, value in stored.items() if value not in (None, [])}
