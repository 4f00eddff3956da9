"""Search: candidate generators beyond plain sampling."""
