"""What the exercises' checks compare with: exercise -> (answer, tolerance). Solutions in the book show how to get there."""

ANSWERS = {
    "0.1": (0, 0),
    "0.2": (0.65, 0.02),
    "0.3": (1, 0),
    "1.1": (5, 0),
    "1.2": ([1.0, 0.9, 0.72, 0.36], 1e-6),
    "1.3": (0.545, 0.0005),
    "1.4": (0.827, 0.001),
}
