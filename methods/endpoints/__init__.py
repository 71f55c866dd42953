"""Methods behind a remote endpoint."""
