"""Planning and running: which fits and cells there are, and how each is carried out."""
