"""Methods, one file each: the place of the file is its registration."""
