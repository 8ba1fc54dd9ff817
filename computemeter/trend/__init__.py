"""A team's runs as one trend: collected, fitted, and drawn on a page."""
