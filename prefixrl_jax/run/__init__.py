"""One run: its inputs, workdir, session, stages' parts and memory."""
