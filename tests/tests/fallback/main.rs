//! Another answer for what has failed: on paused time, and over real HTTP and
//! gRPC. Nothing at the call sites says a type.

mod causes;
mod other;
mod real;
mod support;
