//! Generates the feed's messages from `proto/feed.proto`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/feed.proto");
    let descriptors = protox::compile(["../proto/feed.proto"], ["../proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
