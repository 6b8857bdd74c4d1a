// Package table reads CSV and writes JSON.
package table

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ToJSON writes the rows of a CSV as a list of objects, whose keys are in the first row. A cell that is missing is left out.
func ToJSON(in io.Reader, out io.Writer) error {
	reader := csv.NewReader(in)
	reader.FieldsPerRecord = -1
	heading, err := reader.Read()
	if err != nil {
		return fmt.Errorf("the heading: %w", err)
	}
	heading = slices.Clone(heading)
	rows := []map[string]string{}
	for {
		cells, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(cells) > len(heading) {
			line, _ := reader.FieldPos(0)
			return fmt.Errorf("line %d has %d cells, and the heading %d", line, len(cells), len(heading))
		}
		row := map[string]string{}
		for i, cell := range cells {
			row[heading[i]] = cell
		}
		rows = append(rows, row)
	}
	return json.NewEncoder(out).Encode(rows)
}
