"""What a person, a disk, a signal or a hostile stranger may do to foveate, many times over: `make campaign`.

Numbers of trials are the whole ones there, and a twentieth of them in `make test-all`. Every trial's seed is printed.
"""
