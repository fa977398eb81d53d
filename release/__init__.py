"""How a release is made and tried; see README.md beside this file."""
