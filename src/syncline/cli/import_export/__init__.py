"""`syncline import` and `syncline export`: a directory's files as keys, and back. Paths, copies and their progress."""
