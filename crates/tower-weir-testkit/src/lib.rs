//! Servers that throttle, slow down and die.
