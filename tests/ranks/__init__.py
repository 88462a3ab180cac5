"""Several processes on one machine, over gloo: what ranks that work on one video do together."""
