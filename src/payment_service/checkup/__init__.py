"""A check of the whole service, for whoever is called when something is wrong."""
