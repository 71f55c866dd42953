"""The networks that metrics use: where their weights come from, and how they are loaded and checked."""
