//! End-to-end tests against the test bed's real servers; nothing is mocked.
