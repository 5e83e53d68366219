"""Images over HTTP: what a client may ask for, and a server with limits of its own."""
