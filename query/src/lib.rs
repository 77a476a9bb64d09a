//! A stream's schema and SQL to a checked plan; JSON messages to record batches; one micro-batch. No network.
