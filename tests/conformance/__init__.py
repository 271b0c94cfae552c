"""Traces: what the consensus core must answer, to the letter, to commands given by hand.

`python -m tests.conformance DIR_OR_FILE...` runs data files; `test_traces.py` runs them under pytest.

- `datafile.py`     the format: a command, `----`, its expected output
- `compare.py`      what counts as equal, and the diff where it is not
- `describe.py`     messages, entries, Ready and the rest as text
- `environment.py`  a cluster of raw nodes driven by hand
- `verbs.py`        the commands of the interaction files
- `tables.py`       the commands of the quorum and membership files
- `runner.py`       one file, from its first command to its verdict
- `traces/`         our own, one idea each
"""
