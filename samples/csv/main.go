// A table as JSON: POST a CSV with a heading, and get a list of objects.
package main

import (
	"bytes"
	"net/http"

	"csv/table"
	_ "csv/wasihttp"
)

const bytesMax = 4 << 20

func init() {
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("POST a CSV with a heading\n"))
	})
	http.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		var out bytes.Buffer
		if err := table.ToJSON(http.MaxBytesReader(w, r.Body, bytesMax), &out); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(out.Bytes())
	})
}

// The host calls the handlers: main is not called.
func main() {}
