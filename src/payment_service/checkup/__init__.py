"""Looking the whole service over, for whoever is called when it does not go."""
