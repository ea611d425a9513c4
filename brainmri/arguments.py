"""The arguments of the command line: their names, help and checks. Wrong input gives one line, with the nearest right word."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from brainmri._version import __version__
from brainmri.zoo import registry
from brainmri.zoo.attributes import SINGLE_SEQUENCES

OUT = Path("results")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("local", "ray")
MODEL = "zoo entry, local folder, or OWNER/NAME on the Hub"

EXAMPLES = """examples:
  brainmri                                       serve the page on http://127.0.0.1:7860
  brainmri predict head.nii.gz                   write report, masks and tables to results/head
  brainmri predict scans/ --out tumours --json   analyse every study in a folder, print a JSON object for each
  brainmri models                                list the models with Dice, inputs and licence

brainmri COMMAND --help lists the options of a command."""


class Parser(argparse.ArgumentParser):
    """A parser that prints an error as one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class Command(NamedTuple):
    """A command's help, and the function that adds its arguments to a parser."""

    summary: str
    description: str
    examples: str
    add_arguments: Callable[[Parser], None]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command, by name; `parser` is the command's own. Without arguments, the command is `serve`.

    Args:
        arguments: None for those of the process.

    Raises:
        SystemExit: for wrong arguments, after a line that says why.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["serve"]
    parser = build_parser()
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        predict = f"; to analyse it: brainmri predict {words[0]}" if Path(words[0]).exists() else ""
        parser.error(unknown_word("command", words[0], COMMANDS) + predict)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        known = re.findall(r"--[\w-]+", options.parser.format_usage())
        options.parser.error(unknown_word("argument", unknown[0], known))
    return options


def build_parser() -> Parser:
    """The parser of the command line, with one for each of `COMMANDS`."""
    parser = Parser(
        prog="brainmri",
        usage="brainmri [COMMAND] …",
        description="Find, outline and measure brain tumours in MRI slices and studies.\nA research demo, not a medical device.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"brainmri {__version__}")
    added = parser.add_subparsers(prog="brainmri", dest="command", required=True, title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = added.add_parser(
            name, help=command.summary, description=command.description, epilog=f"examples:\n{command.examples}"
        )
        command.add_arguments(one)
        one.set_defaults(parser=one)
    return parser


def unknown_word(kind: str, word: str, known: Iterable[str]) -> str:
    """The message for an unknown word: with the nearest known one if there is one, else with all of them.

    >>> unknown_word("model", "effunet-lg", ["effunet-lgg", "resunet-lgg"])
    "unknown model 'effunet-lg'; did you mean 'effunet-lgg'?"
    """
    lowered = {one.lower(): one for one in known}
    near = get_close_matches(word.partition("=")[0].lower(), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"choose from {', '.join(lowered.values())}"
    return f"unknown {kind} {word!r}; {hint}"


def one_of(kind: str, names: Sequence[str]) -> Callable[[str], str]:
    """A type for arguments: one of the names, in upper or lower case."""
    known = {name.lower(): name for name in names}

    def parse(word: str) -> str:
        if word.lower() not in known:
            raise argparse.ArgumentTypeError(unknown_word(kind, word, names))
        return known[word.lower()]

    return parse


def model(word: str) -> str:
    """The name of an entry, a folder, or OWNER/NAME."""
    if "/" in word or Path(word).is_dir():
        return word
    names = registry.list_names()
    if word not in names:
        unknown = unknown_word("model", word, names)
        raise argparse.ArgumentTypeError(f"{unknown}{'' if unknown.endswith('?') else '.'} A folder or OWNER/NAME also works.")
    return word


def device(word: str) -> str:
    """The name of a device; torch has more of them than `DEVICES`, so only misspelt ones are refused here."""
    name = word.partition(":")[0]
    if name not in DEVICES and get_close_matches(name.lower(), DEVICES):
        raise argparse.ArgumentTypeError(unknown_word("device", word, DEVICES))
    return word


def runtime(word: str) -> str:
    """The name of an inference backend."""
    from brainmri.zoo.backends import RUNTIMES  # imports torch

    return one_of("runtime", RUNTIMES)(word)


def threshold(word: str) -> float:
    """A number between 0 and 1, both excluded."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, both excluded, got {word!r}")
    return value


def positive(word: str) -> int:
    """A whole number of at least 1."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return int(word)


def _serve(parser: Parser) -> None:
    parser.add_argument("--models", nargs="*", default=[], metavar="MODEL", type=model, help=f"offer more models: {MODEL}")
    _add_device(parser)
    _add_from_hub(parser)


def _predict(parser: Parser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="slice, study (file, folder or zip) or folder of studies"
    )
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder for the results; created if missing (default: {OUT})")
    add("--json", action="store_true", help="print a JSON object for each slice or study, one per line")
    add = parser.add_argument_group("models").add_argument
    add("--segmenter", metavar="MODEL", type=model, help=f"model for the mask: {MODEL} (default: {registry.DEFAULT})")
    add(
        "--classifier", metavar="MODEL", type=model,
        help="model for the verdict (default: the segmenter if it also classifies, else the default model)",
    )  # fmt: skip
    add(
        "--threshold", metavar="P", type=threshold,
        help="outline pixels whose probability is above P, between 0 and 1 (default: the segmenter's own threshold)",
    )  # fmt: skip
    add(
        "--sequence", choices=SINGLE_SEQUENCES, type=one_of("sequence", SINGLE_SEQUENCES),
        help="MR sequence of greyscale slices and of studies with a single sequence (default: recognise it)",
    )  # fmt: skip
    _add_from_hub(parser)
    _add_device(parser)
    parser.add_argument(
        "--runtime", metavar="NAME", type=runtime,
        help="auto (fastest), torch (float32), half, compiled, openvino or int8 (default: BRAINMRI_RUNTIME, or torch)",
    )  # fmt: skip
    add = parser.add_argument_group("clusters").add_argument
    add(
        "--engine", choices=ENGINES, type=one_of("engine", ENGINES), default=ENGINES[0],
        help="local: one input at a time; ray: many, on a Ray cluster (default: local)",
    )  # fmt: skip
    add("--address", metavar="HOST", help="address of a running Ray cluster, or auto (default: start one on this machine)")
    add("--workers", type=positive, metavar="N", help="number of Ray actors (default: one per CPU, or four per GPU)")


def _models(parser: Parser) -> None:
    parser.add_argument("sources", nargs="*", metavar="MODEL", type=model, help=f"also list this one: {MODEL}")
    parser.add_argument("--json", action="store_true", help="print a JSON list with all metrics")


def _download(parser: Parser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="MODEL", type=model, help=f"zoo entry, or OWNER/NAME on the Hub (default: {registry.DEFAULT})"
    )
    parser.add_argument("--all", action="store_true", help="download every entry of the zoo")
    parser.add_argument("--revision", metavar="REF", help="commit, tag or branch instead of the pinned commit")


def _check(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", type=model, help=f"{MODEL} (default: the whole zoo)")
    _add_device(parser)
    _add_from_hub(parser)


def _bench(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", type=model, help=f"{MODEL} (default: all embedded entries)")
    _add_device(parser)
    parser.add_argument(
        "--runs", type=positive, default=24, metavar="N", help="runs for a median; slow tasks use fewer (default: 24)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures to this JSON file")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also write a chart to this SVG file")


def _add_device(parser: Parser) -> None:
    choices = f"{', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
    parser.add_argument(
        "--device", type=device, default="auto", metavar="NAME", help=f"{choices} (default: BRAINMRI_DEVICE, or auto)"
    )


def _add_from_hub(parser: Parser) -> None:
    parser.add_argument(
        "--from-hub", action="store_true", help="take the zoo's weights from the Hub or its cache, never the embedded copies"
    )


COMMANDS = {
    "serve": Command(
        "serve the web page (the default command)",
        "Serve the web page on http://127.0.0.1:7860, until the process is stopped.\n"
        "GRADIO_SERVER_PORT and GRADIO_SERVER_NAME set port and address.",
        """  brainmri serve
  brainmri serve --models runs/mine OWNER/effunet-lgg
  GRADIO_SERVER_PORT=8000 brainmri serve --device cpu""",
        _serve,
    ),
    "predict": Command(
        "analyse slices and studies: verdict, mask and report",
        "Analyse slices (PNG, JPEG, TIFF, …) and studies (NIfTI, DICOM, MGH, NRRD, MetaImage, TIFF), and write the results.\n"
        "A slice gets <name>.mask.png, .overlay.png and .finding.json; a study gets a folder <name> with report.html.\n"
        "All studies are listed in studies.csv. Results that exist already are kept, so an interrupted run resumes.",
        """  brainmri predict slice.png
  brainmri predict flair.nii.gz study.zip dicom-folder --out tumours
  brainmri predict scans/ --threshold 0.3
  brainmri predict t1c.png --sequence T1c --json

Exit status: 0 if all inputs were analysed, 1 if any failed, 2 if the arguments are wrong.""",
        _predict,
    ),
    "models": Command(
        "list the models with Dice, inputs and licence",
        "List the models of the zoo, and others by name.",
        """  brainmri models
  brainmri models runs/mine
  brainmri models --json""",
        _models,
    ),
    "download": Command(
        "download models from the Hugging Face Hub",
        "Download models from the Hugging Face Hub into its local cache.",
        """  brainmri download --all
  brainmri download OWNER/effunet-lgg --revision main""",
        _download,
    ),
    "check": Command(
        "verify model outputs on this machine",
        "Compare the models' outputs for a bundled slice with those stored at their release.",
        """  brainmri check
  brainmri check resunet-lgg --device cuda

Exit status: 0 if all outputs match, 1 if any differs.""",
        _check,
    ),
    "bench": Command(
        "measure speed and memory on this machine",
        "Measure speed and memory of the models on each inference backend of this machine. Takes minutes.",
        """  brainmri bench
  brainmri bench effunet-lgg --runs 8 --out bench.json""",
        _bench,
    ),
}  # fmt: skip
