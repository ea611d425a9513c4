"""`gr.Blocks` that logs every request, hides internal errors, and documents endpoints by their docstrings."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from html import unescape
from pathlib import Path

import anyio.to_thread
import gradio as gr
from gradio.data_classes import APIInfo
from gradio.exceptions import InvalidPathError
from gradio.utils import get_function_description
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse

from brainmri.io.files import MAX_FILES
from brainmri.io.limits import MAX_STUDY_BYTES
from brainmri.ui.fetch import FetchRefused
from brainmri.ui.logs import REFUSED, SUPERSEDED, error_chain, start_request
from brainmri.ui.upload_names import with_own_names
from brainmri.ui.values import check_values, with_added

ERROR_LOGGED = "The error was logged. Please try again."
INTERNAL_ERROR = f"Analysis failed. {ERROR_LOGGED}"
DISK_FULL = "The server's disk is full. Please try again later."
UPLOAD_EXPIRED = "The upload has expired. Please upload it again."
NO_FUNCTION = "Unknown function. /gradio_api/info lists the endpoints."
INVALID_VALUES = "Expected values of the types that the API page lists, got others."
NOT_UPLOADED = "Expected uploaded files, got other paths. Please upload the files first."
TOO_LARGE = f"Expected at most {MAX_FILES} files with {MAX_STUDY_BYTES // 2**20} MiB, got more. Please choose fewer files."
TOO_MANY_ADDRESSES = "Expected at most {limit} addresses of files, got {count}. Please send a study's files in a zip."
RESTARTING = "The server is being restarted. Please try again in a minute."

MAX_ADDRESSES = 8  # files of a request that are given by URL
DELIVERY_SECONDS = 1.0  # for the last responses to reach their clients

# "status" of an error in a direct call, for the guard: Gradio answers every error with 500
call_status: ContextVar[dict[str, int]] = ContextVar("call_status")

log = logging.getLogger(__name__)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error, or any error that caused it, is a full disk."""
    return any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) for e in error_chain(error))


def check_files(inputs: list) -> None:
    """Refuse inputs that refer to too many or too large files, before any of them is read.

    Raises:
        gr.Error: beyond the limits.
    """
    paths: list[str] = []
    traverse(inputs, lambda file: paths.append(str(file.get("path"))), is_file_obj_with_meta)
    addresses = sum(map(is_http_url_like, paths))
    if addresses > MAX_ADDRESSES:
        raise gr.Error(TOO_MANY_ADDRESSES.format(limit=MAX_ADDRESSES, count=addresses), print_exception=False)
    local = [Path(path) for path in paths if not is_http_url_like(path)]
    if len(local) > MAX_FILES or sum(path.stat().st_size for path in local if path.is_file()) > MAX_STUDY_BYTES:
        raise gr.Error(TOO_LARGE, print_exception=False)


async def run_off_loop(call: Callable[..., Awaitable], *arguments):
    """Run a coroutine function in a thread with an event loop of its own, so that the server's loop answers other requests."""

    async def run():
        return await call(*arguments)

    return await anyio.to_thread.run_sync(lambda: asyncio.run(run()))


class Page(gr.Blocks):
    """The Blocks that handle every request, from the page and from the API."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.active_requests, self.closing = 0, False

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for running ones; return False if they take longer than `seconds`."""
        self.closing = True
        until = time.monotonic() + seconds
        while self.active_requests and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(DELIVERY_SECONDS)
        return not self.active_requests

    async def preprocess_data(self, block_fn, inputs: list, *arguments, **options) -> list:
        """Check and read the inputs of a request, which Gradio does on the server's event loop.

        Raises:
            gr.Error: for too many or too large files, paths that were not uploaded, addresses that cannot be fetched, and
                missing or malformed values.
        """
        gradio_preprocess = super().preprocess_data

        async def preprocess():
            values = inputs
            if block_fn.api_visibility == "public":
                values = with_added(block_fn, inputs)
                check_values(block_fn, values)
            check_files(values)
            return with_own_names(await gradio_preprocess(block_fn, values, *arguments, **options), values)

        try:
            return await run_off_loop(preprocess)
        except gr.Error:
            raise
        except InvalidPathError as error:
            raise gr.Error(NOT_UPLOADED, duration=15, print_exception=False) from error
        except FetchRefused as error:
            message = f"The file could not be fetched: {error}. Please upload it instead."
            raise gr.Error(message, duration=15, print_exception=False) from error
        except FileNotFoundError as error:
            raise gr.Error(UPLOAD_EXPIRED, duration=15, print_exception=False) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # as Gradio raises them for a malformed request
            raise gr.Error(INVALID_VALUES, duration=15, print_exception=False) from error

    async def postprocess_data(self, *arguments) -> list:
        """Move the outputs of a request to the cache, which Gradio does on the server's event loop."""
        return await run_off_loop(super().postprocess_data, *arguments)

    async def process_api(self, block_fn, *arguments, **options) -> dict:
        """Handle a request and log its kind, outcome, duration and sizes. Unexpected errors become a generic message.

        Messages are HTML for the page and plain text for the API.

        Raises:
            gr.Error: when the request is refused or fails. Gradio does not print it, as its own messages quote the input.
        """
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        public = event.api_visibility == "public"
        kind = f"/{event.api_name}" if public else f"{getattr(event.fn, '__module__', '').rpartition('.')[2]}.{event.name}"
        sizes, began, outcome, failure = start_request(), time.perf_counter(), "answered", None
        self.active_requests += 1
        try:
            if self.closing:
                raise gr.Error(RESTARTING, duration=15, print_exception=False)
            if event.fn is None:  # of the page, in JavaScript
                raise gr.Error(NO_FUNCTION, duration=15, print_exception=False)
            answer = await super().process_api(event, *arguments, **options)
            outcome = next((reported for reported in (REFUSED, SUPERSEDED) if sizes.pop(reported, 0)), outcome)
            return answer
        except gr.Error as refusal:
            outcome = REFUSED
            refusal.print_exception = False
            if public:
                refusal.message = unescape(refusal.message)
            call_status.get({})["status"] = 503 if self.closing else 422
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            outcome, failure = "failed", error
            call_status.get({})["status"] = 507 if disk_is_full(error) else 500
            raise gr.Error(DISK_FULL if disk_is_full(error) else INTERNAL_ERROR, duration=15, print_exception=False) from error
        finally:
            self.active_requests -= 1
            measured = {"seconds": round(time.perf_counter() - began, 3), **sizes}
            summary = ", ".join(f"{name} {number}" for name, number in measured.items())
            level = logging.ERROR if failure else logging.INFO if event.queue or outcome != "answered" else logging.DEBUG
            fields = {"kind": kind, "outcome": outcome, **measured}
            log.log(level, "%s %s: %s", kind, outcome, summary, exc_info=failure, extra={"fields": fields})

    def get_api_info(self, *arguments, **options) -> APIInfo:
        """Gradio's API info, with parameters and return values described by the endpoint function's docstring."""
        info = super().get_api_info(*arguments, **options)
        for event in self.fns.values():
            if event.fn and (endpoint := info["named_endpoints"].get(f"/{event.api_name}")):
                _, parameters, returns = get_function_description(event.fn)
                for parameter in endpoint["parameters"]:
                    parameter["python_type"]["description"] = parameters[parameter["parameter_name"]]
                for value, line in zip(endpoint["returns"], returns, strict=True):
                    value["label"], _, value["python_type"]["description"] = line.partition(": ")
        return info
