"""Before a run: what it should cost by both methods, and how long it should take."""
