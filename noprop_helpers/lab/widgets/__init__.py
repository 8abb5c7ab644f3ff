"""Figures that a reader can move, each one HTML output: it works in the page as it lies on the disk, and in a notebook.

What is seen at first is drawn by Python, so a figure says something where no script runs. The data lie in the output; the
script is classic, needs no library, reaches no other host and touches nothing but its own figure. ``frame`` is what they
share.
"""
