//! Admission in real servers, axum's and tonic's.

mod grpc;
mod house;
mod http;
mod vanish;
mod writers;
