"""`syncline wal` and `syncline snapshot`: look at the files of one node. They change nothing there."""
