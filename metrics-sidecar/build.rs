//! Generates the clients and servers of `proto/`, without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(["../proto/feed.proto", "../proto/peers.proto"], ["../proto"])?;
    // Without the client's own `connect`, whose name the rpc has: use `FeedClient::new(channel)`.
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
