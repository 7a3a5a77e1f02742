"""Payment providers. One HTTP call becomes one outcome; nothing here retries or redirects."""
