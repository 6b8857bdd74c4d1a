"""Numbers in, statistics out: POST numbers with spaces, commas or lines between them."""

import json
import math
import statistics

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields, IncomingBody, IncomingRequest, Method_Post, OutgoingBody, OutgoingResponse, ResponseOutparam,
)
from wit_world.imports.streams import StreamError_Closed

BYTES_MAX = 1 << 20


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        if not isinstance(request.method(), Method_Post):
            return answer(response_out, 405, {"error": "POST numbers"})
        try:
            numbers = [float(word) for word in body_of(request).replace(",", " ").split()]
            answer(response_out, 200, summary(numbers))
        except ValueError as error:
            answer(response_out, 400, {"error": str(error)})


def summary(numbers: list[float]) -> dict:
    if not numbers:
        raise ValueError("there are no numbers")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return {
        "count": len(numbers),
        "min": min(numbers),
        "median": statistics.median(numbers),
        "mean": statistics.fmean(numbers),
        "max": max(numbers),
        "deviation": round(statistics.pstdev(numbers), 6),
    }


def body_of(request: IncomingRequest) -> str:
    body, content = request.consume(), b""
    with body.stream() as stream:
        while True:
            try:
                content += stream.blocking_read(64 << 10)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):  # its end
                    break
                raise ValueError("the request broke off") from error
            if len(content) > BYTES_MAX:
                raise ValueError(f"there are more than {BYTES_MAX} bytes")
    IncomingBody.finish(body)
    return content.decode()


def answer(response_out: ResponseOutparam, status: int, value: dict) -> None:
    content = json.dumps(value).encode() + b"\n"
    response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(content)
    OutgoingBody.finish(body, None)
