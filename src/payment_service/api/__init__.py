"""The API: all of HTTP. JSON in, a typed request; a row out, JSON. Decides nothing about money."""
