//! The filter, served to Envoy: a gateway can then take filter and sidecar of one version from one image.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;

/// The filter's bytes and their SHA-256, read once: what is served fits the sum that was handed out for as long as
/// this process lives.
#[derive(Clone, Debug)]
pub struct Wasm {
    /// The module.
    pub bytes: Bytes,
    /// Hexadecimal.
    pub sha256: String,
}

impl Wasm {
    /// Reads the module at `path`.
    ///
    /// # Errors
    /// A sentence, when the file cannot be read or is no wasm module.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("--filter {}: {error}", path.display()))?;
        if !bytes.starts_with(b"\0asm") {
            return Err(format!("--filter {}: no wasm module (expected \\0asm at its start)", path.display()));
        }
        let sha256 = Sha256::digest(&bytes).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(Self { bytes: bytes.into(), sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_its_sum_and_anything_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("filter.wasm");
        std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(
            Wasm::read(&path).unwrap().sha256,
            "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476"
        );
        std::fs::write(&path, b"<html>").unwrap();
        assert!(Wasm::read(&path).unwrap_err().contains("no wasm module"));
        assert!(Wasm::read(&dir.path().join("none")).is_err());
    }
}
