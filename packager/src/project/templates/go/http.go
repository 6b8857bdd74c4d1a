package main

import (
	"fmt"
	"net/http"

	_ "NAME/wasihttp"
)

func init() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go: %s %s\n", r.Method, r.URL.Path)
	})
}

// The host calls the handlers: main is not called.
func main() {}
