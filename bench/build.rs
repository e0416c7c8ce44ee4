//! Compiles the echo that noised is compared with.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["echo.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".echo.Payload.payload").compile_fds(descriptors)?;
    Ok(())
}
