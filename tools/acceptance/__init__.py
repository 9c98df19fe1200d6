"""Accepts a GPU: tests, smoke runs, timings and training within a given time, in one record and one page."""
