module csv

go 1.24
