"""PromptEditBench's engine: it knows no concrete method, data set, table or screen."""

__version__ = "0.1.0"
