"""The back door: whoever moves the money. One HTTP call becomes one outcome; nothing here retries or redirects."""
