//! Generates `VectorIndex` without a `protoc` binary: protox reads the proto.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = "proto/vector_index.proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
