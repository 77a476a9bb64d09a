//! Runs one query of a pipeline: Kafka in, SQL over micro-batches, rows out.
