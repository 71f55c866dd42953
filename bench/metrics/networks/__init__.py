"""The networks that metrics look through: where their weights come from, how they are loaded and checked."""
