"""The book's own laboratory: its experiments, their recordings, and what its chapters draw. Not meant to be copied."""
