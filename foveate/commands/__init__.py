"""What the commands beside `fit` do: compare, evaluate, export, list. The command line calls one function each."""
