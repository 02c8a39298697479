"""The sidecar: reads the ring, probes from outside, keeps a journal, sends to the server; never imports a framework."""
