"""The log on disk: format, frames, segments, recovery, reader and writer. `docs/formats.md` has it byte by byte."""
