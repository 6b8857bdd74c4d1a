// HTTP for C: the functions of WASI 0.2 that an app needs to answer a request. The app defines `handle`.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *method; // "GET", "POST", ...
  const char *path;   // with the query: "/cats?name=Inky"
  uint32_t handle;    // the request itself, for request_body
} request;

typedef struct {
  uint32_t out, fields, body, stream;
  uint16_t status;
  bool sent;
} response;

// The app. It answers with response_header (any number of times), response_write (likewise) or response_text.
void handle(const request *req, response *res);

#define HTTP(interface, name) \
  __attribute__((import_module("wasi:http/" interface "@0.2.10"), import_name(name))) extern
#define IO(interface, name) \
  __attribute__((import_module("wasi:io/" interface "@0.2.10"), import_name(name))) extern

HTTP("types", "[method]incoming-request.method") void wasi_method(uint32_t, void *);
HTTP("types", "[method]incoming-request.path-with-query") void wasi_path(uint32_t, void *);
HTTP("types", "[method]incoming-request.consume") void wasi_consume(uint32_t, void *);
HTTP("types", "[resource-drop]incoming-request") void wasi_drop_request(uint32_t);
HTTP("types", "[method]incoming-body.stream") void wasi_body_stream(uint32_t, void *);
HTTP("types", "[resource-drop]incoming-body") void wasi_drop_incoming_body(uint32_t);
HTTP("types", "[constructor]fields") uint32_t wasi_fields(void);
HTTP("types", "[method]fields.append")
void wasi_append(uint32_t, const char *, size_t, const char *, size_t, void *);
HTTP("types", "[constructor]outgoing-response") uint32_t wasi_response(uint32_t);
HTTP("types", "[method]outgoing-response.set-status-code") uint32_t wasi_set_status(uint32_t, uint32_t);
HTTP("types", "[method]outgoing-response.body") void wasi_response_body(uint32_t, void *);
HTTP("types", "[method]outgoing-body.write") void wasi_body_write(uint32_t, void *);
HTTP("types", "[static]outgoing-body.finish") void wasi_finish(uint32_t, uint32_t, uint32_t, void *);
HTTP("types", "[static]response-outparam.set")
void wasi_set(uint32_t, uint32_t, uint32_t, uint32_t, uint64_t, uint32_t, uint32_t, uint32_t, uint32_t);
IO("streams", "[method]input-stream.blocking-read") void wasi_read(uint32_t, uint64_t, void *);
IO("streams", "[resource-drop]input-stream") void wasi_drop_input(uint32_t);
IO("streams", "[method]output-stream.blocking-write-and-flush")
void wasi_write(uint32_t, const char *, size_t, void *);
IO("streams", "[resource-drop]output-stream") void wasi_drop_output(uint32_t);
IO("error", "[resource-drop]error") void wasi_drop_error(uint32_t);

// What a function leaves in memory: a discriminant, then its payload. None needs more than 40 bytes.
typedef union {
  uint8_t tag;
  uint32_t words[16];
  uint64_t aligned;
} wasi_result;

// The host asks for memory with this function.
__attribute__((export_name("cabi_realloc")))
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  (void)old_size, (void)align;
  if (size == 0) return (void *)align;
  void *memory = realloc(old, size);
  if (!memory) abort();
  return memory;
}

static char *http_text(uint32_t pointer, uint32_t length) {
  char *text = malloc(length + 1);
  if (!text) abort();
  memcpy(text, (const void *)pointer, length);
  text[length] = 0;
  return text;
}

// Reads the body to its end, at most `limit` bytes; NULL when it is longer or broken off. The text ends with 0.
static inline char *request_body(const request *req, size_t limit, size_t *length) {
  wasi_result r;
  char *text = malloc(limit + 1);
  *length = 0;
  wasi_consume(req->handle, &r);
  if (!text || r.tag) return NULL;
  uint32_t body = r.words[1];
  wasi_body_stream(body, &r);
  if (r.tag) return NULL;
  uint32_t stream = r.words[1];
  bool whole = false;
  for (;;) {
    wasi_read(stream, limit - *length + 1, &r);
    if (r.tag) {
      whole = (uint8_t)r.words[1] == 1; // closed: its end
      if (!whole) wasi_drop_error(r.words[2]);
      break;
    }
    if (r.words[2] > limit - *length) break;
    memcpy(text + *length, (const void *)r.words[1], r.words[2]);
    *length += r.words[2];
    free((void *)r.words[1]);
  }
  wasi_drop_input(stream);
  wasi_drop_incoming_body(body);
  text[*length] = 0;
  return whole ? text : NULL;
}

static inline void response_header(response *res, const char *name, const char *value) {
  wasi_result r;
  if (!res->sent) wasi_append(res->fields, name, strlen(name), value, strlen(value), &r);
}

static void response_send_head(response *res) {
  wasi_result r;
  if (res->sent) return;
  res->sent = true;
  uint32_t head = wasi_response(res->fields);
  wasi_set_status(head, res->status);
  wasi_response_body(head, &r);
  res->body = r.words[1];
  wasi_set(res->out, 0, head, 0, 0, 0, 0, 0, 0);
  wasi_body_write(res->body, &r);
  res->stream = r.words[1];
}

// Sends a part of the body; the first one sends status and headers before it.
static inline void response_write(response *res, const char *bytes, size_t length) {
  wasi_result r;
  response_send_head(res);
  while (length > 0) {
    size_t part = length < 4096 ? length : 4096; // as much as the interface takes at once
    wasi_write(res->stream, bytes, part, &r);
    if (r.tag) return; // the client is gone
    bytes += part, length -= part;
  }
}

static inline void response_text(response *res, int status, const char *text) {
  res->status = status;
  response_header(res, "content-type", "text/plain; charset=utf-8");
  response_write(res, text, strlen(text));
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.10#handle")))
void http_handle(uint32_t request_handle, uint32_t out) {
  static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};
  wasi_result r;
  request req = {.handle = request_handle, .path = "/"};
  wasi_method(request_handle, &r);
  req.method = r.tag < 9 ? methods[r.tag] : http_text(r.words[1], r.words[2]);
  wasi_path(request_handle, &r);
  if (r.tag) req.path = http_text(r.words[1], r.words[2]);
  response res = {.out = out, .fields = wasi_fields(), .status = 200};
  handle(&req, &res);
  response_send_head(&res);
  wasi_drop_output(res.stream);
  wasi_finish(res.body, 0, 0, &r);
  wasi_drop_request(request_handle);
}
