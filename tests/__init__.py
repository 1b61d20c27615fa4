"""balloonlab's tests; ``python -m tests`` runs them in every mode."""
