//! Compiles the protocol without an installed protoc.

use prost::Message;

const FILES: [&str; 3] = ["noised/v1/matrix.proto", "noised/v1/sessions.proto", "noised/v1/analysis.proto"];

/// Payloads are shared slices of what came from the network, not copies.
const PAYLOADS: [&str; 4] = [
    ".noised.v1.MultiplyNextRequest.payload",
    ".noised.v1.MultiplyNextResponse.payload",
    ".noised.v1.StreamMultiplyNextRequest.payload",
    ".noised.v1.StreamMultiplyNextResponse.payload",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("noised.v1.bin"), descriptors.encode_to_vec())?;
    let builder = PAYLOADS.iter().fold(tonic_prost_build::configure(), |builder, field| builder.bytes(field));
    let builder = builder.codec_path("crate::codec::CountingCodec");
    let mut config = tonic_prost_build::Config::new();
    // The codec knows messages by their names.
    config.enable_type_names();
    // Whoever prints a request must not print a key.
    config.skip_debug([".noised.v1.CreateSessionRequest"]);
    builder.compile_fds_with_config(descriptors, config)?;
    Ok(())
}
