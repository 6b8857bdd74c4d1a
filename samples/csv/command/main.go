// The same as a command: a CSV on stdin, or in the files that are named, becomes JSON on stdout.
package main

import (
	"fmt"
	"os"

	"csv/table"
)

func main() {
	if len(os.Args) == 1 {
		check("stdin", table.ToJSON(os.Stdin, os.Stdout))
	}
	for _, name := range os.Args[1:] {
		file, err := os.Open(name)
		check(name, err)
		check(name, table.ToJSON(file, os.Stdout))
		file.Close()
	}
}

func check(name string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "csv: %s: %v\n", name, err)
		os.Exit(1)
	}
}
