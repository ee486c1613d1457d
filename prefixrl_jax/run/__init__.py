"""One run: its inputs, workdir, session, parts of stages, memory plan."""
