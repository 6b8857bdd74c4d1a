from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        method = type(request.method()).__name__.removeprefix("Method_").upper()
        text = f"hello from Python: {method} {request.path_with_query()}\n"
        answer(response_out, 200, "text/plain", text.encode())


def answer(response_out: ResponseOutparam, status: int, content_type: str, content: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", content_type.encode())]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(content), 4096):  # as much as the interface takes at once
            stream.blocking_write_and_flush(content[start:start + 4096])
    OutgoingBody.finish(body, None)
