"""One module per public dataset layout; each turns it into a run folder."""
