"""Photos labelled over HTTP: `ovsdino serve`, and the steps of a Triton model repository."""
