"""An ensemble as teacher, and one model that replaces it."""
