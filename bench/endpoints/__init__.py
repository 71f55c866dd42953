"""Servers that are called over HTTP: the client, and which server may get which key."""
