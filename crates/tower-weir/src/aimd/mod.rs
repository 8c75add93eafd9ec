//! A concurrency limit that finds the upstream's capacity.
