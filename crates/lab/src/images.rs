//! The images that nodes get, made of the programs as they are built now.

use std::path::PathBuf;

use anyhow::Result;
pub use image::Image;

use crate::programs;

/// What [`product`] is called in manifests (the registry's name in front may be left out there).
pub const PRODUCT: &str = concat!("docker.io/kube-security-groups/kube-security-groups:", env!("CARGO_PKG_VERSION"));
/// What [`probe`] is called.
pub const PROBE: &str = concat!("docker.io/kube-security-groups/probe:", env!("CARGO_PKG_VERSION"));

/// The product's image: `operator` and `agent`.
pub fn product() -> Result<Image> {
    Ok(product_of(PRODUCT, programs::ours(&["operator", "agent"])?))
}

/// The same of other programs, under another name, which needs its registry and tag.
pub fn product_of(name: &str, programs: Vec<PathBuf>) -> Image {
    Image::new(name, programs).user("65532:65532")
}

/// `probe` alone, which every node has: also the one that holds a pod's namespaces. Root's: it serves low
/// ports and makes packets.
pub fn probe() -> Result<Image> {
    Ok(Image::new(PROBE, programs::ours(&["probe"])?).entrypoint(&["/bin/probe", "pause"]))
}
