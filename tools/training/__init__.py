"""The demo model's training, and its losses; demo/README.md tells of it."""
