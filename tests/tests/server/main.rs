//! Admission in real servers, axum's and tonic's.

mod grpc;
mod house;
mod http;
#[cfg(feature = "peers")]
mod peers;
mod streams;
mod thresholds;
mod vanish;
mod writers;
