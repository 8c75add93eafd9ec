//! Several regions behind one failover: in process on paused time, and over real
//! HTTP and gRPC.

mod cancel;
mod early;
mod outage;
mod readiness;
mod real;
mod rules;
mod support;
