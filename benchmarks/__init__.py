"""Speed and accuracy, measured. Run by `make bench`; never collected by pytest."""
