"""Searches for hyperparameters: several configs at one budget, judged by validation images, kept in a folder."""
