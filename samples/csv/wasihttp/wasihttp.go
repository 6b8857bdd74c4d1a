// Package wasihttp answers the requests of a wasi:http host with http.DefaultServeMux. Import it for its effect:
//
//	import _ "csv/wasihttp"
package wasihttp

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"unsafe"
)

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-request.method
func requestMethod(request uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-request.path-with-query
func requestPath(request uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-request.authority
func requestAuthority(request uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-request.headers
func requestHeaders(request uint32) uint32

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-request.consume
func requestConsume(request uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [resource-drop]incoming-request
func dropRequest(request uint32)

//go:wasmimport wasi:http/types@0.2.10 [method]incoming-body.stream
func bodyStream(body uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [resource-drop]incoming-body
func dropIncomingBody(body uint32)

//go:wasmimport wasi:http/types@0.2.10 [constructor]fields
func newFields() uint32

//go:wasmimport wasi:http/types@0.2.10 [method]fields.entries
func fieldsEntries(fields uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [method]fields.append
func fieldsAppend(fields uint32, name string, value string, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [resource-drop]fields
func dropFields(fields uint32)

//go:wasmimport wasi:http/types@0.2.10 [constructor]outgoing-response
func newResponse(fields uint32) uint32

//go:wasmimport wasi:http/types@0.2.10 [method]outgoing-response.set-status-code
func setStatus(response uint32, status uint32) uint32

//go:wasmimport wasi:http/types@0.2.10 [method]outgoing-response.body
func responseBody(response uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [static]response-outparam.set
func setResponse(out, isErr, response, a uint32, b uint64, c, d, e, f uint32)

//go:wasmimport wasi:http/types@0.2.10 [method]outgoing-body.write
func bodyWrite(body uint32, result unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.10 [static]outgoing-body.finish
func finishBody(body, hasTrailers, trailers uint32, result unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.10 [method]input-stream.blocking-read
func streamRead(stream uint32, length uint64, result unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.10 [resource-drop]input-stream
func dropInput(stream uint32)

//go:wasmimport wasi:io/streams@0.2.10 [method]output-stream.blocking-write-and-flush
func streamWrite(stream uint32, bytes unsafe.Pointer, length uint32, result unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.10 [resource-drop]output-stream
func dropOutput(stream uint32)

// result is what a function leaves in memory: a discriminant, then its payload.
type result [8]uint64

func (r *result) at() unsafe.Pointer { return unsafe.Pointer(r) }
func (r *result) tag() uint8         { return uint8(r[0]) }
func (r *result) word(i int) uint32  { return uint32(r[i/2] >> (32 * (i % 2))) }
func (r *result) text(i int) string  { return string(r.bytes(i)) }
func (r *result) bytes(i int) []byte { return view(r.word(i), r.word(i+1)) }

func view(pointer, length uint32) []byte {
	if length == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(pointer))), length)
}

// reserved is memory for the WASI adapter, which begins before Go can allocate, and for what the host writes. `margay
// build` finds it by its mark, and puts a function that hands it out in the place of cabi_realloc.
var reserved = [32 + 6<<16]byte{'m', 'a', 'r', 'g', 'a', 'y', ':', 'a', 'd', 'a', 'p', 't', 'e', 'r', ':', '1'}

// The linker leaves out what is never used.
var kept *byte

func init() { kept = &reserved[0] }

// release gives back the memory of what the host wrote, once it was read.
func release() { *(*uint32)(unsafe.Pointer(&reserved[20])) = 0 }

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	panic("not built by margay build")
}

//go:wasmexport wasi:http/incoming-handler@0.2.10#handle
func handle(request, out uint32) {
	r := readRequest(request)
	in := r.Body // a handler may put another one in its place
	w := &response{out: out, header: http.Header{}}
	http.DefaultServeMux.ServeHTTP(w, r)
	w.finish()
	in.Close()
	dropRequest(request)
}

var methods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

func readRequest(request uint32) *http.Request {
	var r result
	in := &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, ContentLength: -1}
	requestMethod(request, r.at())
	if int(r.tag()) < len(methods) {
		in.Method = methods[r.tag()]
	} else {
		in.Method = r.text(1)
	}
	if requestAuthority(request, r.at()); r.tag() == 1 {
		in.Host = r.text(1)
	}
	in.RequestURI = "/"
	if requestPath(request, r.at()); r.tag() == 1 {
		in.RequestURI = r.text(1)
	}
	if in.URL, _ = url.ParseRequestURI(in.RequestURI); in.URL == nil {
		in.URL = &url.URL{Path: "/"}
	}
	fields := requestHeaders(request)
	fieldsEntries(fields, r.at())
	list := r.word(0)
	for i := uint32(0); i < r.word(1); i++ {
		entry := unsafe.Slice((*uint32)(unsafe.Pointer(uintptr(list+16*i))), 4)
		in.Header.Add(string(view(entry[0], entry[1])), string(view(entry[2], entry[3])))
	}
	release()
	dropFields(fields)
	if length, err := strconv.ParseInt(in.Header.Get("Content-Length"), 10, 64); err == nil {
		in.ContentLength = length
	}
	in.Body = http.NoBody
	if requestConsume(request, r.at()); r.tag() == 0 {
		b := &body{handle: r.word(1)}
		if bodyStream(b.handle, r.at()); r.tag() == 0 {
			b.stream = r.word(1)
			in.Body = b
		}
	}
	return in
}

// body is that of a request.
type body struct {
	handle, stream uint32
	rest           bytes.Reader
	end            error
	closed         bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.rest.Len() > 0 {
		return b.rest.Read(p)
	}
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.end != nil || len(p) == 0 {
		return 0, b.end
	}
	var r result
	streamRead(b.stream, 64<<10, r.at())
	switch {
	case r.tag() == 0:
		b.rest.Reset(bytes.Clone(r.bytes(1)))
		release()
	case r.word(1) == 1: // closed
		b.end = io.EOF
	default:
		b.end = io.ErrUnexpectedEOF
	}
	if b.end != nil {
		return 0, b.end
	}
	return b.rest.Read(p)
}

func (b *body) Close() error {
	if !b.closed {
		b.closed = true
		dropInput(b.stream)
		dropIncomingBody(b.handle)
	}
	return nil
}

// response is an http.ResponseWriter.
type response struct {
	out, body, stream uint32
	header            http.Header
	sent              bool
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(status int) {
	if w.sent || status < 200 {
		return
	}
	w.sent = true
	var r result
	fields := newFields()
	for name, values := range w.header {
		for _, value := range values {
			fieldsAppend(fields, name, value, r.at())
		}
	}
	head := newResponse(fields)
	setStatus(head, uint32(status))
	responseBody(head, r.at())
	w.body = r.word(1)
	setResponse(w.out, 0, head, 0, 0, 0, 0, 0, 0)
	bodyWrite(w.body, r.at())
	w.stream = r.word(1)
}

var errGone = errors.New("the client closed the connection")

func (w *response) Write(p []byte) (int, error) {
	if !w.sent && w.header.Get("Content-Type") == "" {
		w.header.Set("Content-Type", http.DetectContentType(p))
	}
	w.WriteHeader(http.StatusOK)
	var r result
	for written := 0; written < len(p); {
		part := p[written:min(len(p), written+4096)] // as much as the interface takes at once
		streamWrite(w.stream, unsafe.Pointer(&part[0]), uint32(len(part)), r.at())
		if r.tag() != 0 {
			return written, errGone
		}
		written += len(part)
	}
	return len(p), nil
}

// Flush has nothing to do: each write is sent at once.
func (w *response) Flush() {}

func (w *response) finish() {
	w.WriteHeader(http.StatusOK)
	dropOutput(w.stream)
	var r result
	finishBody(w.body, 0, 0, r.at())
}
