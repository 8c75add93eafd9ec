//! Integration tests: real servers on port 0 of the loopback.
