//! Container images without a container engine: programs, and the shared libraries that they need, as an OCI image archive.
//!
//! *In:* programs, which are here with their libraries. *Out:* a file that `ctr images import`, `podman load`, `skopeo copy oci-archive:` and
//! `docker load` read, or the files of the image in a folder.
//!
//! ```text
//! index.json ─▶ index of platforms ─▶ manifest of this platform ─▶ config, layer        manifest.json: the same for `docker load`
//! ```
//!
//! Invariants
//! 1. The same programs give the same bytes: no times, no owners, no names of the machine.
//! 2. What is in an image runs by itself: loader and libraries are at the paths where the loader looks for them.
//!
//! Not here: what the product's images consist of and are called (`deploy/image`, `lab`).

mod root;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use root::{Entry, entries};

/// An image: what is in it, and what it is called.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    programs: Vec<PathBuf>,
    entrypoint: Vec<String>,
    user: String,
    small: bool,
}

impl Image {
    /// An image of programs, which will be in its `/bin`. The name needs its registry (`docker.io/…`) and tag.
    pub fn new(name: &str, programs: Vec<PathBuf>) -> Image {
        Image { name: name.to_owned(), programs, entrypoint: Vec::new(), user: String::new(), small: false }
    }

    /// What runs where nobody says otherwise.
    pub fn entrypoint(mut self, entrypoint: &[&str]) -> Image {
        self.entrypoint = entrypoint.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Whose user and group its programs run as where nobody says otherwise, as numbers: `65532:65532`; root's if nothing is said.
    pub fn user(mut self, user: &str) -> Image {
        self.user = user.to_owned();
        self
    }

    /// Compressed as well as can be, which takes longer. Otherwise its layer is as it is.
    pub fn small(mut self) -> Image {
        self.small = true;
        self
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes it as an OCI image archive; how many bytes that is.
    pub fn write(&self, file: &Path) -> Result<u64> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "User": self.user, "Env": ["PATH=/bin"], "Entrypoint": self.entrypoint },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let (layer, kind) = match self.small {
            true => (compressed(&layer)?, "application/vnd.oci.image.layer.v1.tar+gzip"),
            false => (layer, "application/vnd.oci.image.layer.v1.tar"),
        };
        let mut archive = Archive::create(file)?;
        let layer = archive.blob(kind, &layer)?;
        let config = archive.json("application/vnd.oci.image.config.v1+json", &config)?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let mut manifest = archive.json(MANIFEST, &manifest)?;
        manifest["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let mut platforms = archive.json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] }))?;
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        platforms["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag });
        let docker = json!([{ "Config": path(&config), "RepoTags": [self.name], "Layers": [path(&layer)] }]);
        archive.file("oci-layout", &serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?)?;
        archive.file("index.json", &serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [platforms] }))?)?;
        archive.file("manifest.json", &serde_json::to_vec(&docker)?)?;
        archive.close()?;
        Ok(fs::metadata(file)?.len())
    }

    /// Writes the files of the image to a folder, for who has another way to make an image of them.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        tar::Archive::new(self.layer()?.as_slice()).unpack(folder).with_context(|| format!("writing to {}", folder.display()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for Entry { path, content } in entries(&self.programs)? {
            append(&mut archive, &path, &content, 0o755)?;
        }
        Ok(archive.into_inner()?)
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An archive of blobs, each named by what it holds.
struct Archive(tar::Builder<std::io::BufWriter<fs::File>>);

impl Archive {
    fn create(file: &Path) -> Result<Archive> {
        let out = fs::File::create(file).with_context(|| format!("creating {}", file.display()))?;
        Ok(Archive(tar::Builder::new(std::io::BufWriter::new(out))))
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        append(&mut self.0, name, content, 0o644)
    }

    /// Its descriptor.
    fn blob(&mut self, kind: &str, content: &[u8]) -> Result<Value> {
        let descriptor = json!({ "mediaType": kind, "digest": digest(content), "size": content.len() });
        self.file(&path(&descriptor), content)?;
        Ok(descriptor)
    }

    fn json(&mut self, kind: &str, content: &Value) -> Result<Value> {
        self.blob(kind, &serde_json::to_vec(content)?)
    }

    fn close(self) -> Result<()> {
        self.0.into_inner()?.flush().context("writing the image")
    }
}

/// Where the blob of a descriptor is.
fn path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn compressed(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    encoder.finish().context("compressing a layer")
}

/// Nothing but name, content and mode.
fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, content).with_context(|| format!("adding {name} to an image"))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
